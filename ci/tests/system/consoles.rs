//! Consoles: two guests on one UART, and much in each direction.

use anyhow::ensure;
use bulkhead::dialogue::Dialogue;
use ci::{ANSWER, PROMPT, Target, seconds};
use configs::Architecture;

use crate::guest::{has_keyboard, next_guest, power_off, prompt_of};

fn two_guests_on_one_uart(on: Target) {
    let config = on.two_linux("two-linux", &[]).unwrap();
    on.boots(&config, |guests| {
        // Either may be first.
        guests.expect(
            r"(?s)(\[red\] Memory.*\[blue\] Memory|\[blue\] Memory.*\[red\] Memory)",
            on.boot(),
        )?;
        for (name, next) in [("red", true), ("blue", false)] {
            // A prompt may have come already: ask for another.
            guests.type_line("");
            guests.expect(&prompt_of(name), on.boot())?;
            has_keyboard(guests, name)?;
            if next {
                next_guest(guests);
            }
        }
        guests.type_line("poweroff");
        guests.expect("blue.*powered off", ANSWER)?;
        next_guest(guests);
        has_keyboard(guests, "red")?;
        power_off(guests)
    });
}

/// Characters that cross the console.
fn amount(on: Target) -> usize {
    match on.architecture() {
        Architecture::X86_64 => 1_000_000,
        // Under TCG each byte takes several times as long: a megabyte takes minutes.
        Architecture::Arm64 => 256 << 10,
    }
}

/// How long they may take: under TCG each byte is a VM exit of some 80 microseconds.
const LONG: std::time::Duration = seconds(600);

fn much_in_each_direction(on: Target) {
    let config = on.linux("much", &[]).unwrap();
    on.boots(&config, |guest| {
        let (data, sum) = much_out(on, guest)?;
        let amount = amount(on);
        guest.type_line(&format!(
            "stty raw crtscts -echo; printf 'be''gin:'; head -c {amount} > back; stty sane crtscts; sha256sum back"
        ));
        guest.expect("begin:", ANSWER)?;
        guest.send(&data);
        let back = guest.expect(r"([0-9a-f]{64})  back\n", LONG)?;
        ensure!(back == sum, "the data changed on its way in");
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

/// Has the guest make and print base64; returns it and its checksum.
fn much_out(on: Target, guest: &mut Dialogue) -> anyhow::Result<(Vec<u8>, String)> {
    let amount = amount(on);
    guest.expect(PROMPT, on.boot())?;
    guest
        .type_line(&format!("base64 -w 64 /dev/urandom | head -c {amount} > data; sha256sum data"));
    let sum = guest.expect(r"\n([0-9a-f]{64})  data\n", LONG)?;
    guest.expect(PROMPT, ANSWER)?;
    guest.type_line(
        "stty raw crtscts -echo; printf 'be''gin:'; cat data; printf ':end'; stty sane crtscts",
    );
    guest.expect("begin:", ANSWER)?;
    let data = guest.take(amount, LONG)?;
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
    Ok(output.split_whitespace().next().unwrap_or_default().to_string())
}

tests! {
    two_guests_on_one_uart: x86, a72_gic2_2cpus;
    much_in_each_direction: x86, max_gic3;
}
