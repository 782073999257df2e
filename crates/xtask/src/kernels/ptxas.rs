//! What the assembler says about each kernel.

use std::fmt::Write;

/// What one kernel needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// As the linker knows it.
    name: String,
    architecture: String,
    registers: u32,
    /// Bytes of local memory for what the registers do not hold, of a thread.
    stack: u32,
    spill_stores: u32,
    spill_loads: u32,
    /// Bytes of shared memory that are known to the compiler, of a block.
    shared: u32,
    barriers: u32,
}

/// Reads what `ptxas -v` prints.
pub(super) fn parse(text: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in text.lines() {
        if let Some((_, entry)) = line.split_once("Compiling entry function '") {
            let mut names = entry.split('\'').step_by(2);
            kernels.push(Kernel {
                name: names.next().unwrap_or_default().to_owned(),
                architecture: names.next().unwrap_or_default().to_owned(),
                ..Kernel::default()
            });
            continue;
        }
        // Functions that are not kernels are reported between kernels, with a line "Function
        // properties for" of their own, but no line "Used".
        let Some(kernel) = kernels.last_mut() else {
            continue;
        };
        if line.contains(" bytes stack frame") {
            kernel.stack = number_before(line, " bytes stack frame");
            kernel.spill_stores = number_before(line, " bytes spill stores");
            kernel.spill_loads = number_before(line, " bytes spill loads");
        } else if line.contains(": Used ") {
            kernel.registers = number_before(line, " registers");
            kernel.barriers = number_before(line, " barriers");
            kernel.shared = number_before(line, " bytes smem");
        }
    }
    kernels
}

/// The number that stands before `what`, or 0 if it is not there.
fn number_before(line: &str, what: &str) -> u32 {
    let before = line.split_once(what).map_or("", |(before, _)| before);
    let digits = before.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// One line for each kernel.
pub(super) fn table(kernels: &[Kernel]) -> String {
    let mut text = format!(
        "{:>9} {:>7} {:>7} {:>6} {:>8} {:>8}  kernel\n",
        "registers", "stack", "spilled", "loaded", "shared", "barriers"
    );
    for kernel in kernels {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:>9} {:>7} {:>7} {:>6} {:>8} {:>8}  {} ({})",
            kernel.registers,
            kernel.stack,
            kernel.spill_stores,
            kernel.spill_loads,
            kernel.shared,
            kernel.barriers,
            kernel.name,
            kernel.architecture
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'ep_dispatch' for 'sm_90'
ptxas info    : Function properties for ep_dispatch
    16 bytes stack frame, 8 bytes spill stores, 24 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 4.156 ms
ptxas info    : Compiling entry function 'ep_floor' for 'sm_90'
ptxas info    : Function properties for ep_floor
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
";

    #[test]
    fn kernels_are_found_with_what_they_need() {
        let first = Kernel {
            name: "ep_dispatch".to_owned(),
            architecture: "sm_90".to_owned(),
            registers: 128,
            stack: 16,
            spill_stores: 8,
            spill_loads: 24,
            shared: 1024,
            barriers: 1,
        };
        let second = Kernel {
            name: "ep_floor".to_owned(),
            architecture: "sm_90".to_owned(),
            registers: 8,
            ..Kernel::default()
        };
        assert_eq!(parse(TEXT), [first, second]);
        assert_eq!(parse("ptxas info    : 0 bytes gmem"), []);
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let table = table(&parse(TEXT));
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].contains("128") && lines[1].ends_with("ep_dispatch (sm_90)"));
    }
}
