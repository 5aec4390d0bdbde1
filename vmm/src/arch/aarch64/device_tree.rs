//! The guest's device tree (Devicetree Specification 0.4, bindings of Linux's Documentation/devicetree).
use super::gic::Version;
use super::layout;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::ops::Range;
use vm_fdt::{Error, FdtWriter};

/// The machine that a guest finds.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Its interrupt controller.
    pub gic: Version,
    /// Its serial port.
    pub serial: Option<Serial>,
}

/// A PL011.
#[derive(Clone, Copy, Debug)]
pub struct Serial {
    /// Guest-physical address of its registers.
    pub address: u64,
    /// Number of its SPI.
    pub line: u32,
}

/// What a device tree describes.
pub struct Tree<'a, R> {
    /// The machine.
    pub machine: &'a Machine,
    /// Its RAM.
    pub ram: R,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// Where the initial RAM disk is; empty without one.
    pub initrd: Range<u64>,
}

const GIC: u32 = 1;
const CLOCK: u32 = 2;
/// Interrupt specifiers: kind, number, trigger.
const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// Frequency of the serial port's clock.
const SERIAL_HZ: u32 = 24_000_000;
/// PPIs of the generic timer: secure physical, physical, virtual, hypervisor's.
const TIMERS: [u32; 4] = [13, 14, 11, 10];

/// The device tree as a blob.
pub fn build<R: Iterator<Item = Range<u64>>>(tree: Tree<'_, R>) -> Result<Vec<u8>, Error> {
    let machine = tree.machine;
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "Bulkhead virtual machine")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;

    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", tree.cmdline)?;
    if !tree.initrd.is_empty() {
        fdt.property_u64("linux,initrd-start", tree.initrd.start)?;
        fdt.property_u64("linux,initrd-end", tree.initrd.end)?;
    }
    if machine.serial.is_some() {
        fdt.property_string("stdout-path", "serial0")?;
    }
    fdt.end_node(node)?;

    for range in tree.ram {
        let node = fdt.begin_node(&format!("memory@{:x}", range.start))?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &[range.start, range.end - range.start])?;
        fdt.end_node(node)?;
    }

    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for vcpu in 0..machine.vcpus {
        let node = fdt.begin_node(&format!("cpu@{vcpu:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u32("reg", vcpu)?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)?;

    let node = fdt.begin_node("psci")?;
    fdt.property_string_list(
        "compatible",
        ["arm,psci-1.0", "arm,psci-0.2"].map(|s| s.to_string()).into(),
    )?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;

    // GICv2: the PPI's CPUs are in bits 8 to 15.
    let ppi_cpus = match machine.gic {
        Version::V2 => ((1 << machine.vcpus.min(8)) - 1) << 8,
        Version::V3 => 0,
    };
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    let mut interrupts = Vec::new();
    for timer in TIMERS {
        interrupts.extend([PPI, timer, LEVEL_HIGH | ppi_cpus]);
    }
    fdt.property_array_u32("interrupts", &interrupts)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)?;

    let node = fdt.begin_node(&format!("interrupt-controller@{:x}", layout::DISTRIBUTOR))?;
    let (compatible, reg) = match machine.gic {
        Version::V2 => (
            "arm,cortex-a15-gic",
            [
                layout::DISTRIBUTOR,
                layout::DISTRIBUTOR_V2_SIZE,
                layout::CPU_INTERFACE,
                layout::CPU_INTERFACE_SIZE,
            ],
        ),
        Version::V3 => (
            "arm,gic-v3",
            [
                layout::DISTRIBUTOR,
                layout::DISTRIBUTOR_V3_SIZE,
                layout::REDISTRIBUTORS,
                layout::REDISTRIBUTOR_SIZE * u64::from(machine.vcpus),
            ],
        ),
    };
    fdt.property_string("compatible", compatible)?;
    fdt.property_array_u64("reg", &reg)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    fdt.property_phandle(GIC)?;
    fdt.end_node(node)?;

    if let Some(serial) = machine.serial {
        let node = fdt.begin_node("apb-pclk")?;
        fdt.property_string("compatible", "fixed-clock")?;
        fdt.property_u32("#clock-cells", 0)?;
        fdt.property_u32("clock-frequency", SERIAL_HZ)?;
        fdt.property_string("clock-output-names", "clk24mhz")?;
        fdt.property_phandle(CLOCK)?;
        fdt.end_node(node)?;

        let name = format!("pl011@{:x}", serial.address);
        let node = fdt.begin_node(&name)?;
        fdt.property_string_list(
            "compatible",
            ["arm,pl011", "arm,primecell"].map(|s| s.to_string()).into(),
        )?;
        fdt.property_array_u64("reg", &[serial.address, layout::SERIAL_SIZE])?;
        // Device servers report rising edges.
        fdt.property_array_u32("interrupts", &[SPI, serial.line, EDGE_RISING])?;
        fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
        fdt.property_string_list(
            "clock-names",
            ["uartclk", "apb_pclk"].map(|s| s.to_string()).into(),
        )?;
        fdt.end_node(node)?;

        let node = fdt.begin_node("aliases")?;
        fdt.property_string("serial0", &format!("/{name}"))?;
        fdt.end_node(node)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    fn cells(blob: &[u8], path: &str, property: &str) -> Vec<u32> {
        let node = Fdt::new(blob).unwrap().find_node(path).expect(path);
        let value = node.property(property).expect(property);
        let cells = value.value().chunks_exact(4);
        cells.map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    fn text(blob: &[u8], path: &str, property: &str) -> String {
        let node = Fdt::new(blob).unwrap().find_node(path).expect(path);
        let value = node.property(property).expect(property);
        String::from_utf8(value.value().to_vec()).unwrap()
    }

    #[test]
    fn a_parser_finds_the_machine() {
        let machine =
            |gic| Machine { vcpus: 2, gic, serial: Some(Serial { address: 0x900_0000, line: 1 }) };
        let blob = |gic| {
            build(Tree {
                machine: &machine(gic),
                ram: [0x4000_0000..0x5000_0000, 0x8000_0000..0x1_0000_0000].into_iter(),
                cmdline: "quiet",
                initrd: 0x4800_0000..0x4800_1000,
            })
            .unwrap()
        };
        let v3 = blob(Version::V3);
        assert_eq!(text(&v3, "/chosen", "bootargs"), "quiet\0");
        assert_eq!(cells(&v3, "/chosen", "linux,initrd-end"), [0, 0x4800_1000]);
        assert_eq!(cells(&v3, "/memory@80000000", "reg"), [0, 0x8000_0000, 0, 0x8000_0000]);
        assert_eq!(cells(&v3, "/cpus/cpu@1", "reg"), [1]);
        assert_eq!(text(&v3, "/psci", "method"), "hvc\0");
        assert_eq!(cells(&v3, "/timer", "interrupts")[6..9], [1, 11, 4]);
        assert_eq!(
            cells(&v3, "/interrupt-controller@8000000", "reg"),
            [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x4_0000]
        );
        assert_eq!(cells(&v3, "/pl011@9000000", "interrupts"), [0, 1, 1]);
        assert_eq!(text(&v3, "/aliases", "serial0"), "/pl011@9000000\0");
        // What nodes refer to is there.
        let clock = cells(&v3, "/apb-pclk", "phandle")[0];
        assert_eq!(cells(&v3, "/pl011@9000000", "clocks"), [clock; 2]);
        assert_eq!(
            cells(&v3, "/", "interrupt-parent"),
            cells(&v3, "/interrupt-controller@8000000", "phandle")
        );

        let v2 = blob(Version::V2);
        assert_eq!(
            cells(&v2, "/interrupt-controller@8000000", "reg"),
            [0, 0x800_0000, 0, 0x1000, 0, 0x801_0000, 0, 0x2000]
        );
        assert_eq!(cells(&v2, "/timer", "interrupts")[6..9], [1, 11, 0x304]);
    }
}
