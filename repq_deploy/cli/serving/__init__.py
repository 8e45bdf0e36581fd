"""Commands about engines that serve."""
