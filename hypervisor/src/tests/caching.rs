//! How what is mapped is cached: the bits of the entries, in the formats of host and guest spaces.

use super::world::{DEVICE, DOMAIN, PORTS, RAM, World};
use crate::mem::KernelPage;
use crate::space::Space;
use crate::tables::index;
use abi::syscall::{Caching, SpaceKind};
use abi::{Op, Status};

const AT: u64 = 0x4000_0000;

/// The entry that translates [`AT`], at `level`.
fn entry(w: &World, space: u64, level: u32) -> u64 {
    let space = w.object::<Space>(space as u32).object;
    let mut page = KernelPage::from_phys(space.table.root());
    for above in (level + 1..4).rev() {
        let next = page.read(index(AT, above)) & 0x000f_ffff_ffff_f000;
        page = KernelPage::from_phys(crate::addr::HostPhys(next));
    }
    page.read(index(AT, level))
}

fn map(w: &World, memory: u32, space: u64, size: u64, access: u64) -> Result<u64, Status> {
    let at = w.selector() as u64;
    let args = [memory as u64, space, at, 0, AT, size, access];
    w.try_root(Op::Map, &args).map(|_| at)
}

#[test]
fn memory_types_are_what_was_asked_for_and_devices_are_never_cached() {
    use Caching::{Natural, Uncached, WriteCombining};
    let w = World::new(1);
    let [domain, host, guest] = [(); 3].map(|()| w.selector() as u64);
    w.root(Op::CreateDomain, &[DOMAIN as u64, domain, 30, 4]);
    w.root(Op::CreateSpace, &[domain, host, SpaceKind::Host as u64]);
    w.root(Op::CreateSpace, &[domain, guest, SpaceKind::Guest as u64]);
    // Host: PWT (bit 3) alone is write-combining, with PCD (bit 4) uncached. EPT: type in bits 3 to 5, IPAT in bit 6.
    let (host_mask, guest_mask) = (0x18, 0x78);
    for (memory, caching, in_host, in_guest) in [
        (RAM, Natural, 0, 6 << 3 | 1 << 6),
        (RAM, Uncached, 0x18, 1 << 6),
        (RAM, WriteCombining, 0x08, 1 << 3 | 1 << 6),
        (DEVICE, Natural, 0x18, 0),
        (DEVICE, Uncached, 0x18, 1 << 6),
        (DEVICE, WriteCombining, 0x08, 1 << 3 | 1 << 6),
    ] {
        for (space, mask, expected) in [(host, host_mask, in_host), (guest, guest_mask, in_guest)] {
            let at = map(&w, memory, space, 0x1000, 3 | caching.bits()).unwrap();
            let found = entry(&w, space, 0) & mask;
            assert_eq!(found, expected, "{memory} {caching:?}");
            w.delete(at as u32);
        }
    }
    // Large pages have it in the same places.
    let [large] = [(); 1].map(|()| w.selector() as u64);
    w.root(Op::CreateSpace, &[domain, large, 0]);
    let access = 3 | WriteCombining.bits();
    map(&w, RAM, large, 1 << 30, access).unwrap();
    assert_eq!(entry(&w, large, 2) & (host_mask | 1 << 7), 0x08 | 1 << 7);
}

#[test]
fn unknown_caching_is_refused_and_ports_have_none() {
    let w = World::new(1);
    let space = w.selector() as u64;
    w.root(Op::CreateSpace, &[DOMAIN as u64, space, 0]);
    for access in [3 | 3 << 16, 3 | 1 << 18, 3 | 1 << 63, 1 << 15 | 3] {
        let result = map(&w, RAM, space, 0x1000, access);
        assert_eq!(result, Err(Status::BadArgument), "{access:#x}");
    }
    let access = 3 | Caching::Uncached.bits();
    let args = [PORTS as u64, space, 99, 0x80, 0x80, 1, access];
    let ports = w.try_root(Op::Map, &args);
    assert_eq!(ports, Err(Status::BadArgument));
}
