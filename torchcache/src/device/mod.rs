//! What runs on a CUDA device past libtorch.

mod driver;
#[expect(dead_code, reason = "for the launches")]
mod plan;

pub(crate) use driver::{Stream, current_stream};
