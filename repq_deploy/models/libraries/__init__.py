"""Models of other libraries, as the timm models that compute the same: a map of names each, nothing else knows them."""
