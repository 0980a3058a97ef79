"""What the stream knows of items and categories: decayed counts, and the numbers that models make of them."""
