"""What every layer uses: files, images, keyed random numbers and devices."""
