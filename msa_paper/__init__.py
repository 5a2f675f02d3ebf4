__version__ = "0.1.0"
from .face import FACE, face_dir as __dir__, face_getattr as __getattr__

__all__ = [*FACE]
