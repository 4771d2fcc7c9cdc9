"""A look inside: where attention goes, which text guides a method, and which patches it keeps."""
