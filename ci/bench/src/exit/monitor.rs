//! The monitor: what is common to both architectures. It runs in a domain and a space of its own, with a handler thread for each
//! vCPU, and has nothing but its capabilities ([`table`]) and the guest's memory.

use super::arch;
use super::plan::{Event, REPORT, STATES, VCPUS, table};
use abi::boot::BootInfo;
use abi::vcpu::exit_kind;
use abi::{PAGE_SIZE, Rights};
use bench_guest::{Request, place};
use core::cell::UnsafeCell;
use rt::shared::SharedMemory;
use rt::syscall::{self, MapParameters};
use trial::Stack;

/// The handlers' stacks.
static STACKS: [Stack; VCPUS] = [const { Stack::zeroed() }; VCPUS];

/// What handlers know of their vCPUs, each of its own alone.
struct Vcpus(UnsafeCell<[Option<arch::Vcpu>; VCPUS]>);

// SAFETY: `prepare` comes before the handlers, and each of these uses the vCPU of its own number.
unsafe impl Sync for Vcpus {}

static VCPU: Vcpus = Vcpus(UnsafeCell::new([const { None }; VCPUS]));

/// Words of the message of an exit, as the kernel gives them.
pub type Words = [u64; 4];

/// Prepares what handlers find; the monitor's space is a copy of this one, so that it is there too.
pub fn prepare(info: &BootInfo) {
    arch::prepare(info);
    for number in 0..VCPUS {
        // SAFETY: before there are handlers.
        unsafe { (*VCPU.0.get())[number] = Some(arch::Vcpu::new(number)) };
    }
}

/// Where the stack of a vCPU's handler starts.
pub fn stack(vcpu: usize) -> u64 {
    STACKS[vcpu].top()
}

/// Answers an exit of the vCPU whose state page is at `identity` and returns the groups that changed; called by the handlers' loop for all that it does not
/// answer itself.
pub extern "C" fn answer(identity: u64, a: u64, b: u64, c: u64, d: u64) -> u64 {
    let number = (identity - STATES) as usize / PAGE_SIZE % VCPUS;
    // SAFETY: this vCPU's handler is the only one that comes here with its number, and serves one exit at a time.
    let vcpu = unsafe { &mut (*VCPU.0.get())[number] };
    let words = [a, b, c, d];
    let known = exit_kind(a).zip(vcpu.as_mut());
    match known.and_then(|(kind, vcpu)| vcpu.exit(kind, &words)) {
        Some(groups) => groups.bits(),
        None => {
            report(number, &words);
            tell(Event::Unknown);
            arch::park(number)
        }
    }
}

/// Tells the root task.
pub fn tell(event: Event) {
    let _ = syscall::signal(table::EVENTS.offset(event as u32));
}

/// A vCPU halts, and there is no interrupt for it. Whoever has something for vCPU 0 as soon as it waits is told.
pub fn halted(number: usize) {
    if number == 0 {
        let _ = syscall::signal(table::WAKER);
    }
}

/// The report's page.
pub fn report_page() -> SharedMemory {
    // SAFETY: mapped for this purpose alone, in whichever space this runs.
    unsafe { SharedMemory::new(REPORT as usize, PAGE_SIZE) }
}

/// Reports an exit.
fn report(number: usize, words: &Words) {
    let all = core::iter::once(number as u64).chain(*words);
    for (i, word) in all.enumerate() {
        // Inside the page.
        let _ = report_page().write_u64(i * 8, word);
    }
}

/// Answers a fault at `address`, if the page that comes and goes lies there: maps it.
pub fn fill_page(address: u64) -> bool {
    let page = place::PAGE..place::PAGE + PAGE_SIZE as u64;
    page.contains(&address)
        && syscall::map(
            table::PAGE,
            table::GUEST,
            table::PAGE_MAPPING,
            &MapParameters {
                offset: 0,
                address: place::PAGE,
                size: PAGE_SIZE as u64,
                rights: Rights::RW,
            },
        )
        .is_ok()
}

/// The device.
#[derive(Clone, Debug, Default)]
pub struct Device {
    value: u32,
    /// The guest is not to go on.
    pub ended: bool,
}

impl Device {
    /// Whether it is at this address.
    pub fn is_at(address: u64) -> bool {
        (place::DEVICE..place::DEVICE + PAGE_SIZE as u64).contains(&address)
    }

    /// Reads a register.
    pub fn read(&mut self, address: u64) -> u64 {
        match address {
            place::VALUE => self.value.into(),
            _ => 0,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, address: u64, value: u64) {
        match address {
            place::VALUE => self.value = value as u32,
            place::REQUEST => self.request(value as u32),
            _ => {}
        }
    }

    fn request(&mut self, code: u32) {
        match Request::from_code(code) {
            Some(Request::TakePage) => {
                // There is none before the first fault.
                let _ = syscall::delete(table::PAGE_MAPPING);
            }
            Some(Request::Interrupt) => tell(Event::Interrupt),
            Some(Request::End) => {
                tell(Event::Ended);
                self.ended = true;
            }
            Some(Request::Failed) | None => {
                tell(Event::Failed);
                self.ended = true;
            }
        }
    }
}
