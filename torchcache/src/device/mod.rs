//! What runs on a CUDA device past libtorch.

#[cfg_attr(not(test), expect(dead_code, reason = "for the device tier"))]
mod driver;
#[expect(dead_code, reason = "for the launches")]
mod plan;

#[expect(unused_imports, reason = "for the device tier")]
pub(crate) use driver::{Stream, current_stream};
