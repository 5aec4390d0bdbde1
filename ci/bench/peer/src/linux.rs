//! What the driver asks of Linux, which runs nothing else.

use core::ffi::CStr;
use core::fmt;
use core::ptr::NonNull;

use linux_program::system_call;
use linux_raw_sys::errno::{EEXIST, ENOENT};
use linux_raw_sys::general::{
    __NR_close, __NR_finit_module, __NR_ioctl, __NR_mmap, __NR_openat, __NR_reboot, __NR_write,
    AT_FDCWD, LINUX_REBOOT_CMD_POWER_OFF, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, MAP_ANONYMOUS,
    MAP_POPULATE, MAP_SHARED, O_CLOEXEC, O_RDONLY, O_RDWR, PROT_READ, PROT_WRITE,
};

/// Standard output: the console.
const CONSOLE: usize = 1;

/// A system call that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// What was asked for.
    pub what: &'static str,
    /// Linux's number of the error.
    pub code: u32,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: error {}", self.what, self.code)
    }
}

/// Result of a system call.
pub type Result<T = ()> = core::result::Result<T, Failure>;

/// What a system call returned; `what` is for the message if it failed.
fn outcome(returned: isize, what: &'static str) -> Result<usize> {
    usize::try_from(returned).map_err(|_| Failure {
        what,
        code: returned.unsigned_abs() as u32,
    })
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct File(i32);

/// An operation on a device.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its name in the manual.
    pub name: &'static str,
    /// Its number, which holds the size of what its argument points to.
    pub number: u32,
}

impl File {
    /// Opens a file for reading and, if it is a device, writing.
    fn open(path: &CStr, flags: u32, what: &'static str) -> Result<File> {
        let arguments = [
            AT_FDCWD as usize,
            path.as_ptr() as usize,
            (flags | O_CLOEXEC) as usize,
            0,
            0,
            0,
        ];
        // SAFETY: it reads the path.
        let file = outcome(unsafe { system_call(__NR_openat, arguments) }, what)?;
        Ok(File(file as i32))
    }

    /// Opens a device.
    pub fn device(path: &CStr, what: &'static str) -> Result<File> {
        File::open(path, O_RDWR, what)
    }

    /// The file of a number that a system call returned.
    pub fn from_number(number: usize) -> File {
        File(number as i32)
    }

    /// An operation of the device.
    ///
    /// # Safety
    /// `argument` is what the operation takes; what it writes to and goes on using is not used in a way that contradicts it.
    #[inline(always)]
    pub unsafe fn control(self, request: Request, argument: usize) -> Result<usize> {
        let arguments = [self.0 as usize, request.number as usize, argument, 0, 0, 0];
        // SAFETY: as the caller promises.
        outcome(unsafe { system_call(__NR_ioctl, arguments) }, request.name)
    }

    /// Maps the first `size` bytes.
    pub fn map(self, size: usize) -> Result<NonNull<u8>> {
        map(self.0 as usize, size, MAP_SHARED)
    }
}

/// Maps `size` bytes of new memory, which is there from the start.
pub fn memory(size: usize) -> Result<NonNull<u8>> {
    map(usize::MAX, size, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE)
}

fn map(file: usize, size: usize, flags: u32) -> Result<NonNull<u8>> {
    let rights = PROT_READ | PROT_WRITE;
    let arguments = [0, size, rights as usize, flags as usize, file, 0];
    // SAFETY: without a wish for an address Linux takes one that is free.
    let address = outcome(unsafe { system_call(__NR_mmap, arguments) }, "mmap")?;
    NonNull::new(address as *mut u8).ok_or(Failure {
        what: "mmap",
        code: 0,
    })
}

/// Loads a module of the kernel; `false` if there is no such file.
pub fn load_module(path: &CStr) -> Result<bool> {
    let what = "finit_module";
    let file = match File::open(path, O_RDONLY, "open") {
        Err(Failure { code: ENOENT, .. }) => return Ok(false),
        other => other?,
    };
    let arguments = [file.0 as usize, c"".as_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: it reads the file and the empty list of parameters.
    let loaded = outcome(unsafe { system_call(__NR_finit_module, arguments) }, what);
    // SAFETY: nobody else has the file.
    unsafe { system_call(__NR_close, [file.0 as usize, 0, 0, 0, 0, 0]) };
    match loaded {
        Ok(_) | Err(Failure { code: EEXIST, .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    let magic = [
        LINUX_REBOOT_MAGIC1,
        LINUX_REBOOT_MAGIC2,
        LINUX_REBOOT_CMD_POWER_OFF,
    ];
    loop {
        // SAFETY: it does not return.
        unsafe {
            system_call(
                __NR_reboot,
                [
                    magic[0] as usize,
                    magic[1] as usize,
                    magic[2] as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
    }
}

/// The console.
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // SAFETY: it reads the text.
            let written = unsafe {
                system_call(
                    __NR_write,
                    [CONSOLE, rest.as_ptr() as usize, rest.len(), 0, 0, 0],
                )
            };
            let written = usize::try_from(written).map_err(|_| fmt::Error)?;
            rest = &rest[written.min(rest.len())..];
        }
        Ok(())
    }
}

/// Prints a line.
#[macro_export]
macro_rules! print_line {
    ($($argument:tt)*) => {{
        use ::core::fmt::Write as _;
        // Without a console nobody would hear of that either.
        let _ = ::core::writeln!($crate::linux::Console, $($argument)*);
    }};
}
