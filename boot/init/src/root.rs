//! What the root task holds: the machine.
use crate::desk::{self, Desk};
use crate::frames::{Chunk, Frames};
use abi::boot::{
    BOOT_INFO_MAGIC, BootInfo, ROOT_BUNDLE, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG, ROOT_MEMORY,
    ROOT_SLOTS, ROOT_SPACE,
};
use abi::cap::MemoryKind;
use abi::syscall::ThreadFlags;
use abi::{Badge, PAGE_SIZE, Rights, Selector, Status};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use image::bundle::Bundle;
use image::system::{Uart, UartModel};
use rt::mapping::Mapper;
use rt::mmio::Mmio;
use rt::program::UtcbAddresses;
use rt::selectors::Selectors;
use rt::shared::SharedMemory;
use rt::syscall::{self, Cpu, Deadline, MapParameters, ThreadParameters};
use rt::thread::Stack;

/// Why something cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

/// Result of building something.
pub type Result<T = ()> = core::result::Result<T, Failure>;

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names what a system call was to do.
pub trait Doing<T> {
    /// As a failure that says `what` was to be done.
    fn doing(self, what: &str) -> Result<T>;
}

impl<T> Doing<T> for core::result::Result<T, Status> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|status| {
            let remedy = match status {
                Status::Quota => ": give it more kernel_memory",
                _ => "",
            };
            Failure(format!("cannot {what}: {}{remedy}", status.name()))
        })
    }
}

/// How the registers of a UART are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartAccess {
    /// A 16550: its first port.
    Ports(u16),
    /// A PL011: its physical address.
    Memory(u64),
}

impl UartAccess {
    /// Those of `uart`.
    pub fn of(uart: Uart) -> Result<UartAccess> {
        match uart.model {
            UartModel::Pl011 => Ok(UartAccess::Memory(uart.address)),
            UartModel::Ns16550 => u16::try_from(uart.address)
                .map(UartAccess::Ports)
                .map_err(|_| Failure(format!("there is no I/O port {:#x}", uart.address))),
        }
    }
}

/// Bits of the main thread's notification.
pub mod bits {
    /// Something lies on the desk.
    pub const DESK: u64 = 1 << 0;
    /// The log has lines for the last resort.
    pub const LOG: u64 = 1 << 1;
    /// A console server has written everything.
    pub const IDLE: u64 = 1 << 2;
}

/// Address of the window through which memory of other programs is filled.
const WINDOW: u64 = 0x1_0000_0000;
/// Addresses for mappings that stay.
const FREE_ADDRESSES: Range<u64> = 0x10_0000_0000..0x7f_0000_0000;
/// Bytes of a handler thread's stack.
const HANDLER_STACK: usize = 16 << 10;

/// The machine, as far as the kernel left it to the root task.
pub struct Root {
    /// What the kernel said.
    pub info: BootInfo,
    /// The bundle.
    pub bundle: Bundle<'static>,
    /// Free RAM.
    pub frames: Frames,
    /// Where messages arrive.
    pub desk: &'static Desk,
    notification: Selector,
    selectors: Selectors,
    freed: Vec<Selector>,
    mapper: Mapper,
    utcbs: UtcbAddresses,
    handlers: Vec<(Cpu, Selector)>,
}

impl Root {
    /// Takes the machine over and checks the bundle.
    ///
    /// # Safety
    /// `info` is the address of the kernel's boot information; called once.
    pub unsafe fn new(info: u64) -> Result<Root> {
        // SAFETY: the caller's promise: the kernel mapped a `BootInfo` there and does not change it.
        let info = unsafe { (info as *const BootInfo).read() };
        if info.magic != BOOT_INFO_MAGIC || info.abi_version != abi::VERSION {
            return Err(Failure("the kernel has another version of the ABI".into()));
        }
        let selectors = Selectors::new(ROOT_FREE.0..ROOT_SLOTS - 1);
        let mapper = Mapper::new(ROOT_SPACE, FREE_ADDRESSES);
        let (address, _) = mapper
            .map(&selectors, ROOT_BUNDLE, 0, info.bundle_size, Rights::READ)
            .doing("map the bundle")?;
        // SAFETY: mapped read-only just now and never unmapped; nobody has it writable, the root
        // task's own data apart, which lies in no part that is read again.
        let bytes =
            unsafe { core::slice::from_raw_parts(address as *const u8, info.bundle_size as usize) };
        let bundle = Bundle::open(bytes).map_err(|error| Failure(format!("{error}")))?;
        let notification = selectors.one();
        syscall::create_notification(ROOT_DOMAIN, notification).doing("create a notification")?;
        let signal = selectors.one();
        let badge = Badge(bits::DESK);
        syscall::delegate_notification(notification, ROOT_DOMAIN, signal, Rights::SIGNAL, badge)
            .doing("create a notification")?;
        Ok(Root {
            frames: Frames::new(info.regions()),
            info,
            bundle,
            desk: Box::leak(Box::new(Desk::new(signal))),
            notification,
            selectors,
            freed: Vec::new(),
            mapper,
            utcbs: UtcbAddresses::new(),
            handlers: Vec::new(),
        })
    }

    /// A free selector.
    pub fn selector(&mut self) -> Result<Selector> {
        let fresh = self.freed.pop().or_else(|| self.selectors.take(1));
        fresh.ok_or_else(|| Failure("the root task's capability table is full".into()))
    }

    /// Empties selectors, whatever they hold, and takes them back.
    pub fn release(&mut self, selectors: Vec<Selector>) {
        for selector in selectors {
            // It may be empty already: objects end with the domain that paid for them.
            let _ = syscall::delete(selector);
            self.freed.push(selector);
        }
    }

    /// Waits for something to happen.
    pub fn wait(&self, deadline: Deadline) -> u64 {
        syscall::wait(self.notification, deadline).unwrap_or(0)
    }

    /// Gives `domain` a capability that sets `badge` in the main thread's notification.
    pub fn delegate_signal(&self, domain: Selector, dst: Selector, badge: u64) -> Result {
        let badge = Badge(badge);
        syscall::delegate_notification(self.notification, domain, dst, Rights::SIGNAL, badge)
            .doing("delegate a notification")
    }

    /// Has the log's lines announced with [`bits::LOG`].
    pub fn listen_to_log(&mut self) -> Result {
        let signal = self.selector()?;
        self.delegate_signal(ROOT_DOMAIN, signal, bits::LOG)?;
        syscall::log_bind(ROOT_LOG, signal).doing("bind the log")
    }

    /// The thread that serves supervisor and exception portals on `cpu`.
    pub fn handler(&mut self, cpu: Cpu) -> Result<Selector> {
        if let Some(&(_, handler)) = self.handlers.iter().find(|(on, _)| *on == cpu) {
            return Ok(handler);
        }
        let stack = Stack::allocate(HANDLER_STACK);
        let entry = rt::handler::prepare(stack, self.utcbs.take(), self.desk, desk::serve);
        let handler = self.selector()?;
        let parameters = ThreadParameters {
            domain: ROOT_DOMAIN,
            space: ROOT_SPACE,
            cpu,
            utcb: entry.utcb,
            ip: entry.ip,
            sp: entry.sp,
            exceptions: Selector::NULL,
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(ROOT_DOMAIN, handler, &parameters)
            .doing(&format!("create the supervisor's thread on CPU {cpu}"))?;
        self.handlers.push((cpu, handler));
        Ok(handler)
    }

    /// Maps RAM that stays with the root task, enough for the stacks of a handler on each CPU; returns its address and size
    /// in bytes.
    pub fn map_stacks(&mut self) -> Result<(u64, u64)> {
        // The allocator needs a little of it.
        let size = u64::from(self.info.cpus) * HANDLER_STACK as u64 + PAGE_SIZE as u64;
        let chunk = self.take(size)?;
        let memory = ROOT_MEMORY.offset(chunk.region);
        let (address, _) = self
            .mapper
            .map(&self.selectors, memory, chunk.offset, size, Rights::RW)
            .doing("map its stacks")?;
        Ok((address, size))
    }

    /// Takes RAM for a program.
    pub fn take(&mut self, size: u64) -> Result<Chunk> {
        self.frames.take(size, PAGE_SIZE as u64).ok_or_else(|| {
            let (wanted, left) = (size >> 10, self.frames.available() >> 10);
            Failure(format!("no {wanted} KiB of RAM in one piece; {left} KiB are left"))
        })
    }

    /// Gives access to memory that no program has yet.
    pub fn fill<T>(&mut self, chunk: Chunk, f: impl FnOnce(&SharedMemory) -> T) -> Result<T> {
        let selector = self.selector()?;
        let parameters = MapParameters {
            offset: chunk.offset,
            address: WINDOW,
            size: chunk.size,
            rights: Rights::RW,
        };
        syscall::map(ROOT_MEMORY.offset(chunk.region), ROOT_SPACE, selector, &parameters)
            .doing("map a program's memory")?;
        // SAFETY: the range was just mapped, nothing of this program lies there, and the value ends
        // before the mapping.
        let window = unsafe { SharedMemory::new(WINDOW as usize, chunk.size as usize) };
        let result = f(&window);
        self.release(Vec::from([selector]));
        Ok(result)
    }

    /// The capability of the memory that holds a range whole, the offset in it, and its kind.
    fn memory_at(&self, address: u64, size: u64) -> Option<(Selector, u64, MemoryKind)> {
        (0..).zip(self.info.regions()).find_map(|(number, region)| {
            let offset = address.checked_sub(region.base)?;
            let inside = size <= region.size.checked_sub(offset)?;
            inside.then_some((ROOT_MEMORY.offset(number), offset, region.memory_kind()?))
        })
    }

    /// Maps memory that is not RAM for reading, in whole pages; returns its physical address with it.
    pub fn map_physical(&mut self, address: u64, size: u64) -> Option<(u64, SharedMemory)> {
        let page = PAGE_SIZE as u64;
        let start = address / page * page;
        let size = address.checked_add(size)?.checked_next_multiple_of(page)? - start;
        let (memory, offset, kind) = self.memory_at(start, size)?;
        if !matches!(kind, MemoryKind::Firmware | MemoryKind::Device) {
            return None;
        }
        let (mapped, _) =
            self.mapper.map(&self.selectors, memory, offset, size, Rights::READ).ok()?;
        // SAFETY: mapped just now, and never unmapped.
        Some((start, unsafe { SharedMemory::new(mapped as usize, size as usize) }))
    }

    /// The UART that a description means. One written for a PC means the UART that the kernel uses on a
    /// machine without ports.
    pub fn uart(&self, described: Uart) -> Uart {
        match described.model {
            UartModel::Ns16550 if self.info.uart_memory != 0 => Uart {
                model: UartModel::Pl011,
                address: self.info.uart_memory,
                line: self.info.uart_interrupt,
            },
            _ => described,
        }
    }

    /// The capability of the device memory at `address`, a multiple of the page size, and the offset in it.
    pub fn device(&self, address: u64, size: u64) -> Result<(Selector, u64)> {
        match self.memory_at(address, size) {
            Some((memory, offset, MemoryKind::Device))
                if address.is_multiple_of(PAGE_SIZE as u64) =>
            {
                Ok((memory, offset))
            }
            _ => Err(Failure(format!("there is no device at {address:#x}"))),
        }
    }

    /// Makes a device's registers accessible to the root task.
    pub fn open_registers(&mut self, address: u64, size: u64) -> Result<Mmio> {
        let (memory, offset) = self.device(address, size)?;
        self.mapper
            .map_registers(&self.selectors, memory, offset, size)
            .doing(&format!("map the registers at {address:#x}"))
    }

    /// Makes I/O ports accessible to the root task.
    pub fn open_ports(&mut self, first: u16, count: u16) -> Result {
        let selector = self.selector()?;
        let (first, size) = (u64::from(first), u64::from(count));
        let parameters = MapParameters { offset: first, address: first, size, rights: Rights::RW };
        syscall::map(abi::boot::ROOT_PORTS, ROOT_SPACE, selector, &parameters)
            .doing(&format!("open I/O port {first:#x}"))
    }

    /// Ticks of the machine's counter in `ms` milliseconds.
    pub fn ticks(&self, ms: u64) -> u64 {
        (self.info.counter_hz / 1000).saturating_mul(ms)
    }
}
