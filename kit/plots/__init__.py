"""Pictures: a tidy frame and an Axes in, the Axes out; no figure is made, saved or shown."""
