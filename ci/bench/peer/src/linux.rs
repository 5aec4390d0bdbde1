//! What the driver asks of Linux, which runs nothing else.

use core::ffi::CStr;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use linux_program::system_call;
use linux_raw_sys::errno::{EAGAIN, EEXIST, EFBIG, EINTR, ENOENT, EOPNOTSUPP};
use linux_raw_sys::general::{
    __NR_close, __NR_eventfd2, __NR_finit_module, __NR_futex, __NR_ioctl, __NR_madvise, __NR_mmap,
    __NR_nanosleep, __NR_openat, __NR_read, __NR_reboot, __NR_sched_setscheduler, __NR_write,
    AT_FDCWD, FUTEX_PRIVATE_FLAG, FUTEX_WAIT, FUTEX_WAKE, LINUX_REBOOT_CMD_POWER_OFF,
    LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, MADV_DONTNEED, MAP_ANONYMOUS, MAP_POPULATE,
    MAP_SHARED, O_CLOEXEC, O_RDONLY, O_RDWR, PROT_READ, PROT_WRITE, SCHED_FIFO, SCHED_NORMAL,
    timespec,
};
use linux_raw_sys::ioctl::TCSBRK;

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
    usize::try_from(returned).map_err(|_| Failure { what, code: returned.unsigned_abs() as u32 })
}

/// An open file.
#[derive(Clone, Copy, Debug)]
pub struct File(u32);

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
        let arguments =
            [AT_FDCWD as usize, path.as_ptr() as usize, (flags | O_CLOEXEC) as usize, 0, 0, 0];
        // SAFETY: it reads the path.
        let file = outcome(unsafe { system_call(__NR_openat, arguments) }, what)?;
        Ok(File(file as u32))
    }

    /// Opens a device.
    pub fn device(path: &CStr, what: &'static str) -> Result<File> {
        File::open(path, O_RDWR, what)
    }

    /// The file of a number that a system call returned.
    pub fn from_number(number: u32) -> File {
        File(number)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0
    }

    /// An operation of the device.
    ///
    /// # Safety
    /// `argument` is what the operation takes; what it writes to and goes on using is not used in a way that contradicts it.
    #[inline(always)]
    pub unsafe fn control(self, request: Request, argument: usize) -> Result<u32> {
        let arguments = [self.0 as usize, request.number as usize, argument, 0, 0, 0];
        // SAFETY: as the caller promises.
        let returned = outcome(unsafe { system_call(__NR_ioctl, arguments) }, request.name)?;
        Ok(returned as u32)
    }

    /// Maps the first `size` bytes.
    pub fn map(self, size: usize) -> Result<NonNull<u8>> {
        map(self.0 as usize, size, MAP_SHARED)
    }
}

fn map(file: usize, size: usize, flags: u32) -> Result<NonNull<u8>> {
    let rights = PROT_READ | PROT_WRITE;
    let arguments = [0, size, rights as usize, flags as usize, file, 0];
    // SAFETY: without a wish for an address Linux takes one that is free.
    let address = outcome(unsafe { system_call(__NR_mmap, arguments) }, "mmap")?;
    NonNull::new(address as *mut u8).ok_or(Failure { what: "mmap", code: 0 })
}

/// Memory that others change too: a guest, another thread. It is never unmapped.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    start: NonNull<u8>,
    size: usize,
}

impl Memory {
    /// New memory, which is there from the start. `size` is one of whole pages.
    pub fn new(size: usize) -> Result<Memory> {
        let start = map(usize::MAX, size, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE)?;
        Ok(Memory { start, size })
    }

    /// Where it starts.
    pub fn start(self) -> NonNull<u8> {
        self.start
    }

    /// Its size in bytes.
    pub fn size(self) -> usize {
        self.size
    }

    /// Where something of this type lies in it, at an offset that fits it.
    pub fn at<T>(self, offset: u64) -> *mut T {
        let offset = offset as usize;
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.size);
        // SAFETY: within what is mapped, as has just been checked.
        unsafe { self.start.as_ptr().add(offset).cast() }
    }

    /// Writes a value at an offset, which fits it.
    pub fn write<T: Copy>(self, offset: u64, value: T) {
        // SAFETY: mapped, aligned, and no Rust reference points there.
        unsafe { self.at::<T>(offset).write_volatile(value) };
    }

    /// Reads 32 bits at an offset, which fits them.
    pub fn read(self, offset: u64) -> u32 {
        // SAFETY: as in `write`.
        unsafe { self.at::<u32>(offset).read_volatile() }
    }

    /// Fills it from a file. Fails if the file is larger.
    pub fn fill(self, path: &CStr) -> Result {
        let what = "reading a file";
        let file = File::open(path, O_RDONLY, what)?;
        let mut offset = 0;
        loop {
            let place = self.start.as_ptr() as usize + offset;
            // SAFETY: it writes to this memory, which no Rust reference points to.
            let read = unsafe {
                system_call(__NR_read, [file.0 as usize, place, self.size - offset, 0, 0, 0])
            };
            match outcome(read, what)? {
                0 if offset == self.size => return Err(Failure { what, code: EFBIG }),
                0 => return Ok(()),
                count => offset += count,
            }
        }
    }

    /// Takes all translations for it away, until the next access; its content stays.
    pub fn unmap_for_now(self) -> Result {
        let arguments = [self.start.as_ptr() as usize, self.size, MADV_DONTNEED as usize, 0, 0, 0];
        // SAFETY: shared memory keeps its content.
        outcome(unsafe { system_call(__NR_madvise, arguments) }, "madvise").map(drop)
    }
}

/// An event that nobody waits for.
pub fn event() -> Result<File> {
    // SAFETY: it has no effect on memory.
    let number = outcome(unsafe { system_call(__NR_eventfd2, [0; 6]) }, "eventfd")?;
    Ok(File(number as u32))
}

/// Bytes of a thread's stack.
const STACK: usize = 64 << 10;

/// How important a thread is: whoever is more important than the one that runs goes first, as soon as it can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Priority {
    /// That of vCPU 0's thread.
    Usual = 1,
    /// That of threads that vCPU 0's makes way for.
    High = 2,
    /// That of threads that run while all others wait.
    Idle = 0,
}

/// Sets the priority of a thread: 0 is the number of the one that calls.
pub fn set_priority(thread: usize, priority: Priority) -> Result {
    let policy = match priority {
        Priority::Idle => SCHED_NORMAL,
        Priority::Usual | Priority::High => SCHED_FIFO,
    };
    let arguments = [thread, policy as usize, &raw const priority as usize, 0, 0, 0];
    // SAFETY: it reads the priority.
    let returned = unsafe { system_call(__NR_sched_setscheduler, arguments) };
    outcome(returned, "sched_setscheduler").map(drop)
}

/// Starts a thread.
pub fn start_thread(
    entry: extern "C" fn(usize) -> !,
    argument: usize,
    priority: Priority,
) -> Result {
    let stack = Memory::new(STACK)?;
    let top = stack.start.as_ptr() as usize + STACK;
    // SAFETY: new memory, of whole pages.
    let returned = unsafe { linux_program::start_thread(top, entry, argument) };
    set_priority(outcome(returned, "clone")?, priority)
}

/// Waits until `word` is not 0, and returns it.
pub fn wait_for(word: &AtomicU32) -> Result<u32> {
    loop {
        let value = word.load(Ordering::Acquire);
        if value != 0 {
            return Ok(value);
        }
        match futex(word, FUTEX_WAIT, 0) {
            Ok(()) | Err(Failure { code: EAGAIN | EINTR, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Changes `word`, and wakes the one who waits for that.
pub fn wake(word: &AtomicU32, value: u32) -> Result {
    word.store(value, Ordering::Release);
    futex(word, FUTEX_WAKE, 1)
}

fn futex(word: &AtomicU32, operation: u32, value: usize) -> Result {
    let operation = operation | FUTEX_PRIVATE_FLAG;
    let arguments = [word.as_ptr() as usize, operation as usize, value, 0, 0, 0];
    // SAFETY: it reads the word.
    outcome(unsafe { system_call(__NR_futex, arguments) }, "futex").map(drop)
}

/// Sleeps for some nanoseconds.
pub fn sleep(nanoseconds: i64) -> Result {
    let time = timespec { tv_sec: 0, tv_nsec: nanoseconds };
    let arguments = [&raw const time as usize, 0, 0, 0, 0, 0];
    // SAFETY: it reads the time.
    outcome(unsafe { system_call(__NR_nanosleep, arguments) }, "nanosleep").map(drop)
}

/// Loads a module of the kernel, unless it is for another CPU; `false` if there is no such file.
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
        // KVM for the CPU is there already, or the CPU is another one.
        Ok(_) | Err(Failure { code: EEXIST | EOPNOTSUPP, .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Switches the machine off, when all that was printed has left it.
pub fn power_off() -> ! {
    /// `tcdrain`: that break of no length which waits only.
    const DRAIN: usize = 1;
    // SAFETY: it has no effect on memory. If it fails, there is nobody to tell.
    unsafe { system_call(__NR_ioctl, [CONSOLE, TCSBRK as usize, DRAIN, 0, 0, 0]) };
    let magic = [LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF];
    loop {
        // SAFETY: it does not return.
        unsafe {
            system_call(
                __NR_reboot,
                [magic[0] as usize, magic[1] as usize, magic[2] as usize, 0, 0, 0],
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
                system_call(__NR_write, [CONSOLE, rest.as_ptr() as usize, rest.len(), 0, 0, 0])
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
