//! Tests of the parts that both backends share.

use abi::vcpu::x86_64::{
    EVENT_ERROR, EVENT_EXCEPTION, EVENT_INTERRUPT, EVENT_NMI, EVENT_SOFTWARE, EVENT_VALID,
};
use raw_cpuid::CpuIdResult;

use super::event::Event;
use super::state::{self, Limits, Words, cr0, cr4, efer};

const ZERO: CpuIdResult = CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };

fn everything() -> Words {
    let ones = CpuIdResult { eax: 0x3030, ebx: !0, ecx: !0, edx: !0 };
    Words { basic: ones, structured: ones, extended: ones, sizes: ones }
}

fn limits() -> Limits {
    Limits::new(&everything(), 0x2e7)
}

#[test]
fn events_from_the_monitor_are_cleaned() {
    assert_eq!(Event::from_monitor(0x31), Event::NONE);
    let garbage = EVENT_VALID | EVENT_INTERRUPT | 0x7fff_f000 | 0x31 | 0xdead << 32;
    assert_eq!(Event::from_monitor(garbage).0, EVENT_VALID | 0x31);
    assert_eq!(Event::from_monitor(EVENT_VALID | EVENT_NMI | 77).0, EVENT_VALID | EVENT_NMI | 2);
    let page_fault = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 14 | 6 << 32;
    assert_eq!(Event::from_monitor(page_fault).0, page_fault);
    let divide = EVENT_VALID | EVENT_EXCEPTION | 5 << 32;
    assert_eq!(Event::from_monitor(divide).0, EVENT_VALID | EVENT_EXCEPTION);
    for kind in [1, 4, 5, 6, 7] {
        assert_eq!(Event::from_monitor(EVENT_VALID | kind << 8 | 3), Event::NONE);
    }
}

#[test]
fn interrupted_software_events_restart() {
    // INT 80h; INT3 of VMX and of SVM; ICEBP.
    for info in [0x480, 0x603, 0x303, 0x501] {
        let event = Event::from_processor(EVENT_VALID | info);
        assert_eq!(event.0, EVENT_VALID | EVENT_SOFTWARE | info & 0xff);
        assert_eq!(event.injectable(cr0::PE), None);
        assert!(!event.is_none() && !event.is_external());
    }
    let fault = EVENT_VALID | EVENT_EXCEPTION | EVENT_ERROR | 14 | 2 << 32;
    assert_eq!(Event::from_processor(fault).injectable(cr0::PE), Some(fault));
    assert_eq!(Event::from_processor(fault).injectable(0), Some(fault & !EVENT_ERROR));
    let nmi = Event::from_processor(EVENT_VALID | EVENT_NMI | 2 | 1 << 12);
    assert!(nmi.is_nmi() && nmi.is_external());
    assert_eq!(nmi.0, EVENT_VALID | EVENT_NMI | 2);
    assert_eq!(Event::from_processor(0x30e), Event::NONE);
}

#[test]
fn cr4_bits_by_cpuid() {
    let all = limits().cr4;
    assert_eq!(all & cr4::VMXE, 0);
    assert_eq!(all & 1 << 14, 0, "SMX");
    assert_eq!(all & 1 << 23, 0, "CET");
    assert_ne!(all & cr4::PKE, 0);
    assert_eq!(Limits::new(&everything(), 7).cr4 & cr4::PKE, 0);
    assert_eq!(Limits::new(&everything(), 0).cr4 & cr4::OSXSAVE, 0);
    let poor = Words { basic: ZERO, structured: ZERO, extended: ZERO, sizes: ZERO };
    let poor = Limits::new(&poor, 0);
    assert_eq!(poor.cr4, cr4::PCE);
    assert_eq!(poor.efer, efer::SCE | efer::LME | efer::LMA);
    assert_eq!(poor.linear_bits, 48);
}

#[test]
fn lma_follows_paging() {
    let limits = limits();
    let paging = cr0::PG | cr0::PE;
    assert_eq!(limits.efer(efer::LME, paging), efer::LME | efer::LMA);
    assert_eq!(limits.efer(efer::LME, cr0::PG), efer::LME);
    assert_eq!(limits.efer(efer::LME | efer::LMA, 0), efer::LME);
    assert_eq!(limits.efer(efer::LMA, paging), 0);
    assert_eq!(limits.efer(efer::SVME | 1 << 13 | 1 << 63, 0), 0);
}

#[test]
fn xcr0_is_always_valid() {
    let limits = limits();
    for value in 0..0x400 {
        let xcr0 = limits.xcr0(value);
        assert_eq!(xcr0 & 1, 1);
        assert_eq!(xcr0 & !0x2e7, 0);
        assert!(xcr0 & 4 == 0 || xcr0 & 2 != 0, "AVX needs SSE");
        assert!(matches!(xcr0 & 0xe0, 0 | 0xe0), "AVX-512 is whole");
        assert!(xcr0 & 0xe0 == 0 || xcr0 & 4 != 0, "AVX-512 needs AVX");
    }
    assert_eq!(limits.xcr0(u64::MAX), 0x2e7);
    assert_eq!(Limits { xcr0: 3, ..limits }.xcr0(0xe7), 3);
}

#[test]
fn canonical_addresses() {
    let limits = Limits { linear_bits: 48, ..limits() };
    for address in [0, 0x7fff_ffff_ffff, 0xffff_8000_0000_0000, u64::MAX] {
        assert_eq!(limits.canonical(address), address);
    }
    assert_eq!(limits.canonical(0x8000_0000_0000), 0xffff_8000_0000_0000);
    assert_eq!(limits.canonical(0x1234_0000_0000_1000), 0x1000);
    let wide = Limits { linear_bits: 57, ..limits };
    assert_eq!(wide.canonical(0x8000_0000_0000), 0x8000_0000_0000);
}

#[test]
fn single_registers() {
    assert_eq!(state::sane_rflags(u64::MAX), 0x3f_7fd7);
    assert_eq!(state::sane_rflags(0), 2);
    assert_eq!(state::sane_dr7(u64::MAX), 0xffff_27ff);
    assert_eq!(state::sane_dr7(0), 0x400);
    assert_eq!(state::sane_dr6(0), 0xffff_0ff0);
    assert_eq!(state::sane_dr6(0x4001), 0xffff_4ff1);
    assert_eq!(state::sane_cr0(u64::MAX), 0xe005_003f);
    assert_eq!(state::sane_pat(state::RESET_PAT), state::RESET_PAT);
    assert_eq!(state::sane_pat(0x0706_0504_0302_0100), 0x0706_0504_0000_0100);
    assert_eq!(state::sane_pat(0xff), 0);
    assert!(!state::dr7_active(0x400) && state::dr7_active(0x401) && state::dr7_active(0x2400));
}
