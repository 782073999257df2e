//! What the fuzz targets do with their bytes; the ordinary tests do the same with
//! fewer.

pub use crate::member::records::fuzzing::records;
pub use crate::store::fuzzing::frames;
