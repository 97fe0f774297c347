"""Makes a model smaller: prunes, distills and quantizes it."""
