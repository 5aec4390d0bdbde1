//! Consoles: two guests on one UART, and a megabyte in each direction.

use anyhow::ensure;
use bulkhead::machine::Kind;
use ci::{ANSWER, BOOT, PROMPT, changed, seconds, with_system};

use crate::endings::power_off;

/// The console server's escape key: Ctrl-T.
const ESCAPE: u8 = 0x14;

#[test]
fn two_guests_on_one_uart() {
    let config = changed("two-linux", "two-linux.toml", &[]).unwrap();
    with_system("two-linux", Kind::QemuX86, &config, |guests| {
        // Either may be first.
        guests.expect(
            r"(?s)(\[red\] Memory.*\[blue\] Memory|\[blue\] Memory.*\[red\] Memory)",
            BOOT,
        )?;
        for (name, next) in [("red", true), ("blue", false)] {
            // A prompt may have come already: ask for another.
            guests.type_line("");
            guests.expect(&format!(r"\[{name}\] linux:\S+# "), BOOT)?;
            guests.type_line("echo here-is-$((40 + 2))");
            guests.expect(&format!(r"\[{name}\] here-is-42\n"), ANSWER)?;
            if next {
                guests.send(&[ESCAPE, b'n']);
            }
        }
        guests.type_line("poweroff");
        guests.expect("blue.*powered off", ANSWER)?;
        guests.send(&[ESCAPE, b'n']);
        guests.type_line("echo still-$((40 + 2))");
        guests.expect(r"\[red\] still-42\n", ANSWER)?;
        power_off(guests)
    });
}

/// Characters that cross the console.
const MEGABYTE: usize = 1_000_000;
/// How long they may take: under TCG each byte is a VM exit of some 80 microseconds.
const LONG: std::time::Duration = seconds(600);

#[test]
fn a_megabyte_in_each_direction() {
    both_directions("megabyte", "linux.toml", Kind::QemuX86, MEGABYTE);
}

#[test]
fn a_tenth_of_it_on_arm() {
    // There each byte is two exits at least: Linux looks at the flags before each.
    let file = "linux-arm64.toml";
    both_directions("megabyte-arm", file, Kind::QemuArm64, MEGABYTE / 10);
}

fn both_directions(name: &str, file: &str, kind: Kind, count: usize) {
    let config = changed(name, file, &[]).unwrap();
    with_system(name, kind, &config, |guest| {
        let (data, sum) = out(guest, count)?;
        guest.type_line(&format!(
            "stty raw crtscts -echo; printf 'be''gin:'; head -c {count} > back; stty sane crtscts; sha256sum back"
        ));
        guest.expect("begin:", ANSWER)?;
        guest.send(&data);
        let back = guest.expect(r"([0-9a-f]{64})  back\n", LONG)?;
        ensure!(back == sum, "the data changed on its way in");
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

/// Has the guest make and print characters of base64; returns them and their checksum.
fn out(
    guest: &mut bulkhead::dialogue::Dialogue,
    count: usize,
) -> anyhow::Result<(Vec<u8>, String)> {
    guest.expect(PROMPT, BOOT)?;
    guest.type_line(&format!(
        "base64 -w 64 /dev/urandom | head -c {count} > data; sha256sum data"
    ));
    let sum = guest.expect(r"\n([0-9a-f]{64})  data\n", LONG)?;
    guest.expect(PROMPT, ANSWER)?;
    guest.type_line(
        "stty raw crtscts -echo; printf 'be''gin:'; cat data; printf ':end'; stty sane crtscts",
    );
    guest.expect("begin:", ANSWER)?;
    let data = guest.take(count, LONG)?;
    guest.expect("^:end", ANSWER)?;
    guest.expect(PROMPT, ANSWER)?;
    ensure!(sha256(&data)? == sum, "the data changed on its way out");
    Ok((data, sum))
}

/// The checksum that the guest's sha256sum gives.
fn sha256(data: &[u8]) -> anyhow::Result<String> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("data");
    std::fs::write(&file, data)?;
    let output = bulkhead::child::run(std::process::Command::new("sha256sum").arg(&file), None)?;
    Ok(output
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_string())
}
