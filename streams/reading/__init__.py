"""Reading back: samples for a purpose, pictures of windows, the books."""
