"""What commands only list, without doing anything."""
