//! The memory of this process, for launches that a driver would get.

#![expect(unsafe_code, reason = "addresses of a launch are numbers")]

use std::ffi::c_void;
use std::ops::Range;

use crate::kernel::Kernel;
use crate::memory::{Denied, Memory};

/// Ranges of addresses of this process, to be read and written.
#[derive(Debug)]
pub struct HostMemory {
    ranges: Vec<Range<u64>>,
}

impl HostMemory {
    /// Memory of which nothing but `ranges` may be accessed.
    ///
    /// # Safety
    ///
    /// As long as the result is used, each range can be read and written, and no reference of Rust to a part of
    /// it is in use.
    pub unsafe fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self {
            ranges: ranges.into_iter().collect(),
        }
    }

    fn check(&self, address: u64, bytes: usize) -> Result<(), Denied> {
        let end = address
            .checked_add(bytes as u64)
            .ok_or(Denied::OutOfBounds)?;
        let mut ranges = self.ranges.iter();
        match ranges.any(|range| range.start <= address && end <= range.end) {
            true => Ok(()),
            false => Err(Denied::OutOfBounds),
        }
    }
}

impl Memory for HostMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Denied> {
        self.check(address, bytes.len())?;
        // SAFETY: the source is in a range that can be read, and `bytes`, which is borrowed, is not.
        unsafe {
            std::ptr::copy_nonoverlapping(address as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Denied> {
        self.check(address, bytes.len())?;
        // SAFETY: the destination is in a range that can be written, and `bytes`, which is borrowed, is not.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
        }
        Ok(())
    }
}

impl Kernel {
    /// The values of the parameters of a launch, as a driver takes them: the address of each.
    ///
    /// # Safety
    ///
    /// `parameters` has as many addresses as the kernel has parameters, of values as long as
    /// [`parameter_bytes`](Self::parameter_bytes) says.
    pub unsafe fn read_parameters(&self, parameters: *const *const c_void) -> Vec<u64> {
        let sizes = self.parameter_bytes().enumerate();
        sizes
            .map(|(index, bytes)| {
                let mut value = [0; 8];
                // SAFETY: the caller passes so many addresses, of so many bytes, and no more than 8.
                unsafe {
                    let from = *parameters.add(index);
                    std::ptr::copy_nonoverlapping(from.cast(), value.as_mut_ptr(), bytes);
                }
                u64::from_le_bytes(value)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Grid, Module};

    const STORE: &str = "
.visible .entry store(
    .param .u64 out,
    .param .u32 value
)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [out];
    ld.param.u32 %r1, [value];
    st.global.u32 [%rd1+4], %r1;
    ret;
}
";

    #[test]
    fn a_launch_writes_to_the_ranges_that_are_passed() {
        let module = Module::parse(STORE).unwrap();
        let kernel = module.kernel("store").unwrap();
        let mut words = [0u32; 2];
        let address = words.as_mut_ptr() as u64;
        let (out, value) = (address, 5u32);
        let addresses: [*const c_void; 2] = [(&raw const out).cast(), (&raw const value).cast()];
        // SAFETY: the addresses are those of 8 and of 4 bytes.
        let parameters = unsafe { kernel.read_parameters(addresses.as_ptr()) };
        assert_eq!(parameters, [address, 5]);
        let one = Grid {
            blocks: 1,
            threads: 1,
        };
        let run = |bytes| {
            // SAFETY: the range is a part of `words`, which is not used until the launch is over.
            let mut memory = unsafe { HostMemory::new(Some(address..address + bytes)) };
            kernel.run(one, &parameters, &mut memory)
        };
        let error = run(7).unwrap_err().to_string();
        assert!(error.contains("out of bounds"), "{error}");
        assert_eq!(run(8), Ok(()));
        assert_eq!(words, [0, 5]);
    }
}
