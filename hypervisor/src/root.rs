//! The root task: the one program that the kernel starts itself.

use crate::addr::HostPhys;
use crate::boot::{BootParams, PhysRange, RegionKind};
use crate::cell::Ref;
use crate::cpu::{self, Cpu};
use crate::create::{self, Creation};
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

/// What the root task is given, by its domain's table.
impl Domain {
    /// Puts a capability into the table.
    fn install(
        &self,
        at: Selector,
        word: CapWord,
        range: [u64; 2],
        extra: u64,
    ) -> Result<(), Status> {
        let tree = slot::lock();
        self.empty_slot(at)?.fill(&tree, word, range, extra);
        Ok(())
    }

    fn install_object<T: Object>(&self, at: Selector, object: Ref<T>) -> Result<(), Status> {
        self.install_whole(at, CapWord::new(T::KIND, Rights::all(), object.address()))
    }

    /// A capability to what has no parts.
    #[inline(never)]
    fn install_whole(&self, at: Selector, word: CapWord) -> Result<(), Status> {
        self.install(at, word, [u64::MAX, 0], 0)
    }

    fn install_memory(
        &self,
        at: Selector,
        range: [u64; 2],
        kind: MemoryKind,
    ) -> Result<(), Status> {
        let rights = match kind {
            MemoryKind::Ram => Rights::RW | Rights::EXEC,
            MemoryKind::Firmware => Rights::READ,
            MemoryKind::Device | MemoryKind::Ports => Rights::RW,
        };
        let word = CapWord::new(Kind::Memory, rights | Rights::DELEGATE, 0);
        self.install(at, word, range, (kind as u64) << 8)
    }
}

/// Makes the root task from the bundle, whose validated head is `head`, and starts it on this CPU. It is told `info`, and its
/// quota.
pub fn start(cpu: &Cpu, mut info: BootInfo, head: &Head) -> Result<(), Status> {
    let overhead = Domain::overhead(boot::ROOT_SLOTS);
    let quota = mem::free_pages().checked_sub(overhead).ok_or(Status::Quota)?;
    let domain = Domain::create(None, 0, boot::ROOT_SLOTS, quota)?;
    let space = Space::make(domain, SpaceKind::Host)?;

    domain.install_object(boot::ROOT_DOMAIN, domain)?;
    domain.install_object(boot::ROOT_SPACE, space)?;
    let all = |kind| CapWord::new(kind, Rights::all(), 0);
    domain.install_whole(boot::ROOT_LOG, all(Kind::Log))?;
    domain.install_whole(boot::ROOT_PLATFORM, all(Kind::Platform))?;
    domain.install(boot::ROOT_TIME, all(Kind::Time), [u64::MAX, TimeLimit::ALL.pack()], 0)?;
    if arch::HAS_PORTS {
        domain.install_memory(boot::ROOT_PORTS, [0, space::PORTS], MemoryKind::Ports)?;
    }
    let bundle = [info.bundle_base, info.bundle_size];
    domain.install_memory(boot::ROOT_BUNDLE, bundle, MemoryKind::Ram)?;
    for (i, region) in info.regions().iter().enumerate() {
        let kind = region.memory_kind().ok_or(Status::BadArgument)?;
        let at = boot::ROOT_MEMORY.offset(i as u32);
        domain.install_memory(at, [region.base, region.size], kind)?;
    }
    for i in 0..info.interrupts {
        domain.install_whole(boot::ROOT_INTERRUPTS.offset(i), interrupt::capability(i))?;
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

    let call = call::CreateThread {
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
    let thread =
        create::thread(Creation { tree: &slot::lock(), caller: &domain, call, payer: domain })?;
    let thread: Ref<Thread> = object::downcast(thread)?;
    thread.with_frame(|frame| frame.set_start_argument(boot::ROOT_BOOT_INFO));
    let sched = domain.make(|header| Sched::new(header, cpu.index, TimeLimit::ALL, 0, 0))?;
    domain.install_object(boot::ROOT_THREAD, thread)?;
    domain.install_object(boot::ROOT_SCHED, sched)?;

    let page = domain.alloc_page()?;
    let (limit, used) = domain.quota();
    info.quota_pages = limit - used;
    write_info(page, &info);
    space.map_kernel_page(&slot::lock(), argument(boot::ROOT_BOOT_INFO)?, page, Rights::READ)?;
    cpu::start(cpu, sched, thread.context())
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

/// What the boot information says of any machine. `pool`: the object pool. The regions are those of the machine's memory below `end`
/// but the kernel's own, and its gaps as device memory; `reserved` says what reserved memory is.
pub fn boot_info(
    params: &BootParams,
    pool: PhysRange,
    end: HostPhys,
    reserved: impl Fn(PhysRange) -> MemoryKind,
) -> BootInfo {
    let bundle = params.bundle.unwrap_or(pool);
    let mut info = BootInfo {
        magic: boot::BOOT_INFO_MAGIC,
        abi_version: abi::VERSION,
        utcb_size: abi::PAGE_SIZE as u32,
        cpus: cpu::count(),
        bundle_base: bundle.start().0,
        bundle_size: bundle.size(),
        boot_counter: params.boot_counter,
        ..BootInfo::empty()
    };
    for region in params.memory_map.regions() {
        let kind = match region.kind {
            RegionKind::Usable => MemoryKind::Ram,
            RegionKind::Firmware | RegionKind::FirmwareNvs => MemoryKind::Firmware,
            RegionKind::Reserved => reserved(region.range),
            RegionKind::Kernel | RegionKind::Bundle | RegionKind::Defective => continue,
        };
        insert(&mut info, region.range, kind);
    }
    for hole in params.memory_map.holes(end) {
        insert(&mut info, hole, MemoryKind::Device);
    }
    info
}

/// Adds a region in its place. What does not fit into the table is left out, and said.
fn insert(info: &mut BootInfo, range: PhysRange, kind: MemoryKind) {
    let count = info.region_count as usize;
    let Some(slot) = info.regions.get_mut(count) else {
        log::warning!("too many memory regions: {range:?} is not used");
        return;
    };
    *slot = Region { base: range.start().0, size: range.size(), kind: kind as u32, reserved: 0 };
    info.region_count += 1;
    for i in (1..=count).rev() {
        if info.regions[i - 1].base < info.regions[i].base {
            break;
        }
        info.regions.swap(i - 1, i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: u64 = abi::PAGE_SIZE as u64;

    /// The kernel's own device is nobody's, though firmware calls it reserved; the rest is there in ascending order.
    #[test]
    fn what_the_root_task_is_given() {
        let mut params = BootParams::EMPTY;
        let map = &mut params.memory_map;
        for (at, pages, kind) in
            [(1, 4, RegionKind::Usable), (8, 4, RegionKind::Reserved), (9, 1, RegionKind::Kernel)]
        {
            map.add(at * PAGE, pages * PAGE, kind).unwrap();
        }
        let end = HostPhys(16 * PAGE);
        let pool = PhysRange::new(HostPhys(PAGE), PAGE).unwrap();
        let info = boot_info(&params, pool, end, |_| MemoryKind::Firmware);
        let found: Vec<_> = info
            .regions()
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
