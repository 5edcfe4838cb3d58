"""From files to pixels: find, check and split the images."""
