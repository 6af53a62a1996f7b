"""Photos to aligned faces: decoding, detection, alignment, and the face networks."""
