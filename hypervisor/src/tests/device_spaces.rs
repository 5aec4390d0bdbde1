//! Spaces of devices: memory comes and goes as in others, and nothing runs in them.

use super::world::{DEVICE, DEVICE_BASE, DOMAIN, PORTS, RAM, RAM_BASE, World};
use crate::addr::HostPhys;
use crate::arch;
use crate::mem::{KernelPage, PAGE};
use crate::space::{GUEST_END, Space};
use crate::tables::index;
use abi::syscall::SpaceKind;
use abi::{Op, Status};

/// A domain and a device space of it.
fn device_space(w: &World) -> (u64, u64) {
    let [domain, space] = [(); 2].map(|()| w.selector() as u64);
    w.root(Op::CreateDomain, &[DOMAIN as u64, domain, 30, 4]);
    let kind = SpaceKind::Device as u64;
    w.root(Op::CreateSpace, &[domain, space, kind]);
    (domain, space)
}

/// The entry for `at` and its level.
fn entry(w: &World, space: u64, at: u64) -> (u64, u32) {
    let mut page = KernelPage::from_phys(w.object::<Space>(space as u32).object.table.root());
    for level in (0..4).rev() {
        let entry = page.read(index(at, level));
        if level == 0 || entry == 0 || entry & 1 << 7 != 0 {
            return (entry, level);
        }
        page = KernelPage::from_phys(HostPhys(entry & 0x000f_ffff_ffff_f000));
    }
    unreachable!("level 0 returns");
}

fn map(w: &World, memory: u32, space: u64, offset: u64, at: u64, size: u64) -> Result<u64, Status> {
    let slot = w.selector() as u64;
    let args = [memory as u64, space, slot, offset, at, size, 3];
    w.try_root(Op::Map, &args).map(|_| slot)
}

#[test]
fn memory_is_mapped_in_the_largest_pages_and_revoked() {
    let w = World::new(2);
    let (domain, space) = device_space(&w);
    let tags = arch::space_tags();
    let large = 2 << 20;
    map(&w, RAM, space, 0, 0, large + PAGE).unwrap();
    let mapping = map(&w, DEVICE, space, 0, 1 << 40, PAGE).unwrap();
    let (first, level) = entry(&w, space, 0);
    assert_eq!((first & !0xfff, level), (RAM_BASE, 1));
    let (next, level) = entry(&w, space, large);
    assert_eq!((next & !0xfff, level), (RAM_BASE + large, 0));
    assert_eq!(entry(&w, space, 1 << 40).0 & !0xfff, DEVICE_BASE);
    let flushes = || w.cpu(1).arch.flushes.load(core::sync::atomic::Ordering::SeqCst);
    let before = flushes();
    w.root(Op::Revoke, &[RAM as u64]);
    w.root(Op::Delete, &[mapping]);
    for at in [0, large, 1 << 40] {
        assert_eq!(entry(&w, space, at).0, 0);
    }
    // No CPU walks these tables.
    assert_eq!(flushes(), before);
    assert_eq!(arch::space_tags(), tags);
    w.delete(domain as u32);
}

#[test]
fn what_is_not_for_devices_is_refused() {
    let w = World::new(1);
    let (domain, space) = device_space(&w);
    let only = arch::GUEST_ONLY.start - DEVICE_BASE;
    assert_eq!(map(&w, DEVICE, space, only, 0, PAGE), Err(Status::Denied));
    assert_eq!(map(&w, PORTS, space, 0, 0, 8), Err(Status::BadArgument));
    assert_eq!(map(&w, RAM, space, 0, GUEST_END, PAGE), Err(Status::BadArgument));
    let thread = [domain, 99, domain, space, 0, 0x7000, 0x2000];
    assert_eq!(w.try_root(Op::CreateThread, &thread), Err(Status::BadArgument));
    let n = w.notification();
    let doorbell = [n, space, 99, 0, 0, 1];
    assert_eq!(w.try_root(Op::BindDoorbell, &doorbell), Err(Status::BadArgument));
    let host = w.selector() as u64;
    w.root(Op::CreateSpace, &[domain, host, 0]);
    for (guest, monitor) in [(space, host), (space, space)] {
        let vcpu = [domain, 99, domain, guest, 0, monitor, 0x9000, 0];
        assert_eq!(w.try_root(Op::CreateVcpu, &vcpu), Err(Status::BadArgument));
    }
    w.delete(domain as u32);
}
