//! What keeps guests from being loaded, whatever their processor.
use core::fmt;

/// Why a guest cannot be loaded. `K` says what is wrong with a kernel file, `O` what else guests of an architecture
/// may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError<K, O> {
    /// The kernel file.
    Kernel(K),
    /// No place for this many bytes of kernel.
    NoRoomForKernel(u64),
    /// The command line has this many bytes, but may have only so many.
    LongCmdline(usize, usize),
    /// Anything else.
    Other(O),
}

impl<K: fmt::Display, O: fmt::Display> fmt::Display for LoadError<K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Kernel(error) => error.fmt(f),
            LoadError::NoRoomForKernel(size) => write!(
                f,
                "the VM's RAM is too small: the kernel needs {} MiB in one piece",
                size.div_ceil(1 << 20)
            ),
            LoadError::LongCmdline(size, most) => {
                write!(f, "the command line has {size} bytes, this kernel takes {most}")
            }
            LoadError::Other(obstacle) => obstacle.fmt(f),
        }
    }
}
