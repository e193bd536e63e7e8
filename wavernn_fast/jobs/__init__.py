"""Jobs of many files, whichever process does them."""
