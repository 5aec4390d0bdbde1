//! The root task: the one program that the kernel starts itself.

use crate::addr::HostPhys;
use crate::boot::memory_map::{MemoryMap, PhysRange, RegionKind};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::create;
use crate::domain::Domain;
use crate::mem::{self, KernelPage};
use crate::object::{self, Object};
use crate::sched::Sched;
use crate::slot::{self, CapWord};
use crate::space::{self, Progress, Space};
use crate::thread::Thread;
use crate::{arch, interrupt, log};
use abi::argument::Argument;
use abi::boot::{self, BootInfo, Region};
use abi::bundle::Head;
use abi::cap::{Kind, MemoryKind, TimeLimit};
use abi::syscall::SpaceKind;
use abi::{Rights, Selector, Status, call};

/// Selector of the first mapping of the root task's own segments.
const SEGMENTS: u32 = 16;

/// What the architecture found out for the root task.
pub struct Machine<'a> {
    /// Boot information, complete but for `quota_pages`.
    pub info: BootInfo,
    /// The bundle.
    pub bundle: PhysRange,
    /// Its head, validated.
    pub head: &'a Head,
}

struct Root {
    domain: Ref<Domain>,
}

impl Root {
    /// Puts a capability into the table.
    fn install(
        &self,
        at: Selector,
        word: CapWord,
        range: [u64; 2],
        extra: u64,
    ) -> Result<(), Status> {
        let tree = slot::lock();
        self.domain.empty_slot(at)?.fill(&tree, word, range, extra);
        Ok(())
    }

    fn object<T: Object>(&self, at: Selector, object: Ref<T>) -> Result<(), Status> {
        self.whole(at, CapWord::new(T::KIND, Rights::all(), object.address()))
    }

    /// A capability to what has no parts.
    #[inline(never)]
    fn whole(&self, at: Selector, word: CapWord) -> Result<(), Status> {
        self.install(at, word, [u64::MAX, 0], 0)
    }

    fn memory(&self, at: Selector, base: u64, size: u64, kind: MemoryKind) -> Result<(), Status> {
        let rights = match kind {
            MemoryKind::Ram => Rights::RW | Rights::EXEC,
            MemoryKind::Firmware => Rights::READ,
            MemoryKind::Device | MemoryKind::Ports => Rights::RW,
        };
        let word = CapWord::new(Kind::Memory, rights | Rights::DELEGATE, 0);
        self.install(at, word, [base, size], (kind as u64) << 8)
    }
}

/// Makes the root task from the bundle and starts it on this CPU.
pub fn start(cpu: &Cpu, machine: Machine<'_>) -> Result<(), Status> {
    let Machine { mut info, bundle, head } = machine;
    let overhead = Domain::overhead(boot::ROOT_SLOTS);
    let quota = mem::free_pages().checked_sub(overhead).ok_or(Status::Quota)?;
    let domain = Domain::create(None, 0, boot::ROOT_SLOTS, quota)?;
    let root = Root { domain };
    let space = Space::make(domain, SpaceKind::Host)?;

    root.object(boot::ROOT_DOMAIN, domain)?;
    root.object(boot::ROOT_SPACE, space)?;
    let all = |kind| CapWord::new(kind, Rights::all(), 0);
    root.whole(boot::ROOT_LOG, all(Kind::Log))?;
    root.whole(boot::ROOT_PLATFORM, all(Kind::Platform))?;
    root.install(boot::ROOT_TIME, all(Kind::Time), [u64::MAX, TimeLimit::ALL.pack()], 0)?;
    if arch::HAS_PORTS {
        root.memory(boot::ROOT_PORTS, 0, space::PORTS, MemoryKind::Ports)?;
    }
    root.memory(boot::ROOT_BUNDLE, bundle.start().0, bundle.size(), MemoryKind::Ram)?;
    for (i, region) in info.regions.iter().take(info.region_count as usize).enumerate() {
        let kind = MemoryKind::from_code(region.kind as u8).ok_or(Status::BadArgument)?;
        root.memory(boot::ROOT_MEMORY.offset(i as u32), region.base, region.size, kind)?;
    }
    for i in 0..info.interrupts {
        root.whole(boot::ROOT_INTERRUPTS.offset(i), interrupt::capability(i))?;
    }

    for (i, segment) in head.segments().iter().enumerate() {
        let request = call::Map {
            memory: boot::ROOT_BUNDLE.into(),
            space: boot::ROOT_SPACE.into(),
            destination: Selector(SEGMENTS + i as u32).into(),
            offset: segment.offset,
            address: segment.address,
            size: segment.size,
            access: argument(segment.rights.into())?,
        };
        while space::map(&slot::lock(), &domain, &request)? == Progress::Again {}
    }
    let stack = boot::ROOT_STACK_TOP - boot::ROOT_STACK_SIZE;
    for at in (stack..boot::ROOT_STACK_TOP).step_by(abi::PAGE_SIZE) {
        space.map_kernel_page(&slot::lock(), argument(at)?, domain.alloc_page()?, Rights::RW)?;
    }

    let request = call::CreateThread {
        payer: boot::ROOT_DOMAIN.into(),
        destination: boot::ROOT_THREAD.into(),
        domain: boot::ROOT_DOMAIN.into(),
        space: boot::ROOT_SPACE.into(),
        placement: argument(cpu.index.into())?,
        utcb: argument(boot::ROOT_UTCB)?,
        ip: argument(head.entry)?,
        sp: argument(boot::ROOT_STACK_TOP)?,
        exceptions: Selector::NULL,
    };
    let thread = create::thread(&slot::lock(), &domain, request, domain)?;
    let thread: Ref<Thread> = object::downcast(thread)?;
    thread.with_frame(|frame| frame.set_start_argument(boot::ROOT_BOOT_INFO));
    let sched = domain.make(|header| Sched::new(header, cpu.index, TimeLimit::ALL, 0, 0))?;
    root.object(boot::ROOT_THREAD, thread)?;
    root.object(boot::ROOT_SCHED, sched)?;

    let page = domain.alloc_page()?;
    let (limit, used) = domain.quota();
    info.quota_pages = limit - used;
    write_info(page, &info);
    space.map_kernel_page(&slot::lock(), argument(boot::ROOT_BOOT_INFO)?, page, Rights::READ)?;
    crate::cpu::start(cpu, sched, thread.context())
}

/// What a system call would make of `word`.
fn argument<T: Argument>(word: u64) -> Result<T, Status> {
    T::load(&[word]).ok_or(Status::BadArgument)
}

fn write_info(page: KernelPage, info: &BootInfo) {
    const WORDS: usize = size_of::<BootInfo>() / 8;
    // SAFETY: BootInfo is plain old data of whole words (its size is asserted in the ABI) and has no padding.
    let words: &[u64; WORDS] = unsafe { &*(info as *const BootInfo).cast() };
    for (i, &word) in words.iter().enumerate() {
        page.write(i, word);
    }
}

/// The machine's memory below `end`, for the boot information: what `map` holds but the kernel's own, and its gaps as device
/// memory; and how many entries that is. `reserved` says what reserved memory is.
pub fn memory_regions(
    map: &MemoryMap,
    end: HostPhys,
    reserved: impl Fn(PhysRange) -> MemoryKind,
) -> ([Region; boot::MAX_REGIONS], u32) {
    let mut regions = Regions { entries: [Region::default(); boot::MAX_REGIONS], count: 0 };
    for region in map.regions() {
        let kind = match region.kind {
            RegionKind::Usable => MemoryKind::Ram,
            RegionKind::Firmware | RegionKind::FirmwareNvs => MemoryKind::Firmware,
            RegionKind::Reserved => reserved(region.range),
            RegionKind::Kernel | RegionKind::Bundle | RegionKind::Defective => continue,
        };
        regions.insert(region.range, kind);
    }
    for hole in map.holes(end) {
        regions.insert(hole, MemoryKind::Device);
    }
    (regions.entries, regions.count as u32)
}

/// Regions of the boot information, in ascending order.
struct Regions {
    entries: [Region; boot::MAX_REGIONS],
    count: usize,
}

impl Regions {
    /// Adds a range in its place. What does not fit into the table is left out, and said.
    fn insert(&mut self, range: PhysRange, kind: MemoryKind) {
        let Some(slot) = self.entries.get_mut(self.count) else {
            log::warning!("too many memory regions: {range:?} is not used");
            return;
        };
        *slot =
            Region { base: range.start().0, size: range.size(), kind: kind as u32, reserved: 0 };
        self.count += 1;
        for i in (1..self.count).rev() {
            if self.entries[i - 1].base < self.entries[i].base {
                break;
            }
            self.entries.swap(i - 1, i);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = abi::PAGE_SIZE as u64;

    /// The kernel's own device is nobody's, though firmware calls it reserved; the rest is there in ascending order.
    #[test]
    fn what_the_root_task_is_given() {
        let mut map = MemoryMap::new();
        for (at, pages, kind) in
            [(1, 4, RegionKind::Usable), (8, 4, RegionKind::Reserved), (9, 1, RegionKind::Kernel)]
        {
            map.add(at * PAGE, pages * PAGE, kind).unwrap();
        }
        let end = HostPhys(16 * PAGE);
        let (regions, count) = memory_regions(&map, end, |_| MemoryKind::Firmware);
        let found: Vec<_> = regions[..count as usize]
            .iter()
            .map(|r| (r.base / PAGE, r.size / PAGE, r.memory_kind().unwrap()))
            .collect();
        use MemoryKind::{Device, Firmware, Ram};
        let expected = [
            (0, 1, Device),
            (1, 4, Ram),
            (5, 3, Device),
            (8, 1, Firmware),
            (10, 2, Firmware),
            (12, 4, Device),
        ];
        assert_eq!(found, expected);
    }
}
