//! What a root task starts from: the bundle, RAM, threads.

use abi::boot::{BootInfo, ROOT_BUNDLE, ROOT_DOMAIN, ROOT_MEMORY, ROOT_SPACE, ROOT_TIME};
use abi::bundle::{HEAD_SIZE, Head};
use abi::cap::MemoryKind;
use abi::syscall::ThreadFlags;
use abi::{Rights, Selector, Status};
use core::cell::UnsafeCell;
use core::ops::Range;
use image::bundle::Bundle;
use rt::syscall::{self, Deadline, MapParameters, Result, ThreadParameters, Time};

/// Where the bundle's head is mapped.
const HEAD: u64 = 0x6000_0000;

/// Maps the bundle's head and decodes it; `mapping` is an empty selector.
pub fn map_head(info: &BootInfo, mapping: Selector) -> Result<Head> {
    let p = MapParameters {
        offset: 0,
        address: HEAD,
        size: abi::PAGE_SIZE as u64,
        rights: Rights::READ,
    };
    syscall::map(ROOT_BUNDLE, ROOT_SPACE, mapping, &p)?;
    // SAFETY: just mapped, read-only, and nobody writes to the bundle's head.
    let bytes = unsafe { core::slice::from_raw_parts(HEAD as *const u8, HEAD_SIZE) };
    Head::decode(bytes, info.bundle_size).map_err(|_| Status::BadArgument)
}

/// Where [`open_bundle`] maps the bundle.
const BUNDLE: u64 = 0x20_0000_0000;

/// Maps the whole bundle and opens it; `mapping` is an empty selector. Needs a heap ([`claim_heap`]).
pub fn open_bundle(info: &BootInfo, mapping: Selector) -> Result<Bundle<'static>> {
    let p =
        MapParameters { offset: 0, address: BUNDLE, size: info.bundle_size, rights: Rights::READ };
    syscall::map(ROOT_BUNDLE, ROOT_SPACE, mapping, &p)?;
    // SAFETY: mapped read-only just now and never unmapped; nobody has it writable, this program's own data apart,
    // which lie in no part that is read again.
    let bytes =
        unsafe { core::slice::from_raw_parts(BUNDLE as *const u8, info.bundle_size as usize) };
    Bundle::open(bytes).map_err(|_| Status::BadArgument)
}

/// A heap of this many bytes.
#[repr(align(4096))]
pub struct Heap<const BYTES: usize>(UnsafeCell<[u8; BYTES]>);

// SAFETY: only the allocator accesses it.
unsafe impl<const BYTES: usize> Sync for Heap<BYTES> {}

impl<const BYTES: usize> Heap<BYTES> {
    /// A heap that nobody uses yet.
    pub const fn zeroed() -> Heap<BYTES> {
        Heap(UnsafeCell::new([0; BYTES]))
    }

    /// Gives it to the root task; once.
    pub fn claim(&'static self) {
        // SAFETY: nothing else uses the memory.
        let claimed = unsafe { rt::heap::claim(self.0.get() as u64, BYTES as u64) };
        assert!(claimed, "the heap is too small");
    }
}

/// A heap for the bundle's directory.
static HEAP: Heap<{ 64 << 10 }> = Heap::zeroed();

/// Gives the root task a heap; once.
pub fn claim_heap() {
    HEAP.claim();
}

/// Maps this program into another space, but for what can be written; the selectors from `first` on are empty.
pub fn map_code(head: &Head, space: Selector, first: Selector) -> Result {
    let segments = head.segments().iter();
    let fixed = segments.filter_map(|segment| {
        let rights = Rights::from_bits_truncate(segment.rights as u16);
        (!rights.contains(Rights::WRITE)).then_some(MapParameters {
            offset: segment.offset,
            address: segment.address,
            size: segment.size,
            rights,
        })
    });
    for (number, p) in (0..).zip(fixed) {
        syscall::map(ROOT_BUNDLE, space, first.offset(number), &p)?;
    }
    Ok(())
}

/// A range of RAM above the first MiB with `size` bytes at least.
pub fn ram(info: &BootInfo, size: u64) -> Result<Selector> {
    let fits = |region: &abi::boot::Region| {
        region.memory_kind() == Some(MemoryKind::Ram)
            && region.base >= 1 << 20
            && region.size >= size
    };
    let number = info.regions().iter().position(fits);
    number.map(|number| ROOT_MEMORY.offset(number as u32)).ok_or(Status::BadArgument)
}

/// Puts a guest's code into its memory, which this program has mapped at `window`, `offset` bytes behind the start. The
/// guest may start with its caches off.
///
/// # Safety
/// The window is mapped, writable, and nothing else of this program is there.
pub unsafe fn place_code(window: Range<u64>, offset: u64, code: impl Iterator<Item = u8>) {
    let window = window.start as usize..window.end as usize;
    for (at, byte) in (window.start + offset as usize..window.end).zip(code) {
        // SAFETY: the caller's promise, and inside the window.
        unsafe { (at as *mut u8).write_volatile(byte) };
    }
    rt::arch::clean_to_memory(window);
}

/// A thread's stack.
#[repr(C, align(16))]
pub struct Stack(UnsafeCell<[u8; 16 << 10]>);

// SAFETY: nothing but the thread that runs on it looks inside.
unsafe impl Sync for Stack {}

impl Stack {
    /// An empty one.
    pub const fn zeroed() -> Stack {
        Stack(UnsafeCell::new([0; 16 << 10]))
    }

    /// Where its thread's stack pointer starts.
    pub fn top(&self) -> u64 {
        self.0.get().expose_provenance() as u64 + size_of::<Stack>() as u64
    }
}

/// Creates a thread of the root domain on CPU 0. Nobody handles its exceptions.
pub fn create_thread(selector: Selector, utcb: u64, ip: extern "C" fn() -> !, sp: u64) -> Result {
    let p = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: ROOT_SPACE,
        cpu: 0,
        utcb,
        ip: ip as *const () as u64,
        sp,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(ROOT_DOMAIN, selector, &p)
}

/// Gives a thread or vCPU of CPU 0 time without limit, at a priority below that of the root task; it starts. `sched` is an empty
/// selector.
pub fn start(sched: Selector, context: Selector) -> Result {
    let time = Time { priority: 10, budget: 0, period: 0 };
    syscall::create_sched(ROOT_DOMAIN, sched, ROOT_TIME, 0, time)?;
    syscall::bind_sched(sched, context)
}

/// Waits for ever; `never` is an empty selector. The machine's registers for its end are not known here: the tool that
/// started the emulator ends it when it has read what it waits for.
pub fn rest(never: Selector) -> ! {
    let _ = syscall::create_notification(ROOT_DOMAIN, never);
    loop {
        let _ = syscall::wait(never, Deadline::NEVER);
    }
}
