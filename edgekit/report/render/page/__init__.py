"""What the page says, part by part. Each module turns a part of a report into blocks; the template only sets them."""
