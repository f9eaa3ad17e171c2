"""Networks. The only part of training that the export package may import."""
