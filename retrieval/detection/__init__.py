"""Detection: what lies where in a picture.

boxed_pictures.py says what detectors learn from, detections.py what they find, detector.py what all of
them offer; the other modules are parts and models.
"""
