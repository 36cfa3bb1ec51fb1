//! Runs the PTX of torchcache's kernels on the CPU, to prove them without a GPU.
//!
//! A launch runs block after block and, up to each barrier, thread after thread. Results do not depend on this
//! order, since whatever would make them depend on it is an error:
//!
//! * threads access shared memory without a barrier between them, or read what none has written;
//! * a barrier is reached by only some threads of a block;
//! * global memory is written twice in a launch, or both read and written.
//!
//! So are accesses out of bounds, misaligned addresses, and divisions by zero. The interpreter has the
//! instructions that the kernels use; parsing fails at others, and at a register that may be read before it is written.
//!
//! ```
//! use torchcache_ptx::{Buffers, Grid, Module};
//!
//! let module = Module::parse(
//!     "
//!     .version 8.0
//!     .target sm_60
//!     .address_size 64
//!     .visible .entry store_thread(
//!         .param .u64 out
//!     )
//!     {
//!         .reg .b32 %r<2>;
//!         .reg .b64 %rd<4>;
//!         ld.param.u64 %rd1, [out];
//!         mov.u32 %r1, %tid.x;
//!         mul.wide.u32 %rd2, %r1, 4;
//!         add.s64 %rd3, %rd1, %rd2;
//!         st.global.u32 [%rd3], %r1;
//!         ret;
//!     }",
//! )?;
//! let mut memory = Buffers::new();
//! let out = memory.output(0, 8);
//! let kernel = module.kernel("store_thread")?;
//! let two = Grid { blocks: 1, threads: 2 };
//! kernel.run(two, &[out], &mut memory)?;
//! assert_eq!(memory.written(out), Some(&[0, 0, 0, 0, 1, 0, 0, 0][..]));
//! let three = Grid { blocks: 1, threads: 3 };
//! let error = kernel.run(three, &[out], &mut memory).unwrap_err();
//! assert!(error.to_string().contains("thread 2 writes 4 bytes out of bounds"));
//! # Ok::<(), torchcache_ptx::Error>(())
//! ```

mod definite;
mod error;
mod global;
mod host;
mod instruction;
mod kernel;
mod memory;
mod parse;
mod run;
mod shared;

use std::collections::BTreeMap;

pub use error::{Error, Fault};
pub use host::HostMemory;
pub use kernel::{Grid, Kernel};
pub use memory::{Buffers, Denied, Memory};

/// The kernels of a PTX file.
#[derive(Debug)]
pub struct Module {
    kernels: BTreeMap<String, Kernel>,
}

impl Module {
    /// Parses the text of a PTX file.
    ///
    /// # Errors
    ///
    /// [`Error::Syntax`] at what the interpreter does not know.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let kernels = parse::kernels(text)?;
        Ok(Self { kernels })
    }

    /// The kernel with this name.
    ///
    /// # Errors
    ///
    /// [`Error::NoKernel`] if there is none.
    pub fn kernel(&self, name: &str) -> Result<&Kernel, Error> {
        self.kernels.get(name).ok_or_else(|| Error::NoKernel {
            name: name.to_owned(),
            known: self.kernels.keys().cloned().collect(),
        })
    }
}
