use super::*;

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(0);
    apic.write_mapped(r::SVR, 0x1ff, 0);
    apic
}

#[test]
fn modes_change_only_as_the_processor_allows() {
    let mut apic = LocalApic::new(3);
    let on = BASE | BASE_ENABLED;
    assert_eq!(apic.base(), on);
    assert_eq!(apic.set_base(BASE | BASE_X2APIC), Err(Refused));
    assert_eq!(apic.set_base(on + 0x1000), Err(Refused));
    apic.set_base(on | BASE_X2APIC).unwrap();
    assert_eq!(apic.read(r::LDR, 0), Ok(8));
    assert_eq!(apic.read(r::DFR, 0), Err(Refused));
    assert_eq!(apic.set_base(on), Err(Refused));
    apic.set_base(BASE).unwrap();
    assert_eq!(apic.set_base(on | BASE_X2APIC), Err(Refused));
    apic.set_base(on).unwrap();
    assert_eq!(apic.read(r::ID, 0), Ok(3 << 24));
}

#[test]
fn destinations() {
    let mut apic = LocalApic::new(2);
    use Destination::*;
    let hit = |apic: &LocalApic, d| apic.address().is_destination(2, d, false);
    assert!(hit(&apic, Physical(2)) && hit(&apic, Physical(0xff)) && hit(&apic, Others));
    assert!(!hit(&apic, Physical(3)) && !hit(&apic, Itself));
    apic.write_mapped(r::LDR, 0x0400_0000, 0);
    assert!(hit(&apic, Logical(0x0c)) && !hit(&apic, Logical(0x03)));
    apic.write_mapped(r::DFR, 0, 0);
    assert!(hit(&apic, Logical(0x0c)) && !hit(&apic, Logical(0x14)));
    apic.set_base(BASE | X2APIC_ON).unwrap();
    assert!(hit(&apic, Logical(0x4)) && !hit(&apic, Logical(0x1_0004)));
    assert!(hit(&apic, Physical(u32::MAX)) && !hit(&apic, Physical(0x102)));
    // INIT leaves the mode; without an enabled APIC nothing comes.
    apic.write_msr(r::SVR, 0x1ff, 0).unwrap();
    apic.init();
    assert!(hit(&apic, Logical(0x4)) && !apic.address().enabled);
    apic.set_base(BASE).unwrap();
    assert!(!hit(&apic, Physical(2)) && !hit(&apic, All));
}

#[test]
fn commands_of_both_modes() {
    let mut apic = enabled();
    apic.write_mapped(r::ICR_HIGH, 5 << 24, 0);
    let sent = apic.write_mapped(r::ICR, 0x4500, 0);
    let init = Message {
        destination: Destination::Physical(5),
        delivery: Delivery::Init,
        vector: 0,
        level: false,
    };
    assert_eq!(sent, Effect::Send(init));
    assert_eq!(apic.write_mapped(r::ICR, 0x8500, 0), Effect::None);
    // Nobody sends an NMI to itself by the shorthand.
    assert_eq!(apic.write_mapped(r::ICR, 0x4_4400, 0), Effect::None);
    apic.set_base(BASE | X2APIC_ON | BASE_BSP).unwrap();
    let sent = apic.write_msr(r::ICR, 0x1_0000_08fd, 0).unwrap();
    assert!(matches!(sent, Effect::Send(m) if m.destination == Destination::Logical(1)));
    assert_eq!(apic.write_msr(r::ICR, 1 << 20, 0), Err(Refused));
    assert_eq!(apic.write_msr(r::EOI, 1, 0), Err(Refused));
    assert_eq!(apic.write_msr(r::TPR, 1 << 32, 0), Err(Refused));
    assert_eq!(apic.write_msr(r::VERSION, 0, 0), Err(Refused));
    // A bad vector is an error that is read after a write to the status.
    assert_eq!(apic.write_msr(r::ICR, 0x0f, 0), Ok(Effect::Interrupts));
    assert_eq!(apic.read(r::ESR, 0), Ok(0));
    apic.write_msr(r::ESR, 0, 0).unwrap();
    assert_eq!(apic.read(r::ESR, 0), Ok(ERROR_SEND_VECTOR));
}

#[test]
fn the_timer_is_masked_until_its_entry_is_set() {
    let mut apic = LocalApic::new(0);
    apic.write_mapped(r::LVT_TIMER, 0x31, 0);
    assert_eq!(apic.read(r::LVT_TIMER, 0), Ok(0x1_0031));
    let mut apic = enabled();
    apic.write_mapped(r::LVT_TIMER, 0x4_0031, 0);
    apic.set_deadline(100);
    apic.expire(99);
    assert_eq!(apic.pending(), None);
    apic.expire(100);
    assert_eq!(apic.acknowledge(), Some(0x31));
    assert_eq!(apic.read(r::ISR + 1, 0), Ok(1 << 17));
    apic.write_mapped(r::SVR, 0xff, 0);
    assert_eq!(apic.read(r::LVT_TIMER, 0), Ok(0x5_0031));
}
