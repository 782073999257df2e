//! Debian's kernel: downloaded and unpacked, never installed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::succeed;

/// Modules in the order in which they are loaded: Soft-RoCE with what it needs, the emulated network
/// card, and what loses packets.
pub(super) const MODULES: [&str; 9] = [
    "configfs",
    "ib_core",
    "ib_uverbs",
    "crc32_generic",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "rdma_rxe",
    "e1000",
    "sch_netem",
];

/// The kernel and its modules.
pub(super) struct Kernel {
    /// An ELF file, which the emulator enters without a boot loader.
    pub(super) vmlinux: PathBuf,
    pub(super) modules: Vec<(&'static str, PathBuf)>,
}

/// Finds the kernel in `dir`, or downloads it there.
///
/// # Errors
/// apt does not have it, or it is not what it was.
pub(super) fn fetch(dir: &Path) -> Result<Kernel> {
    let vmlinux = dir.join("vmlinux");
    let modules = MODULES.map(|name| (name, dir.join(format!("{name}.ko"))));
    if !vmlinux.exists() {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let package = package()?;
        println!("downloading {package}");
        succeed(
            Command::new("apt-get")
                .args(["download", "--quiet=2", &package])
                .current_dir(dir),
        )?;
        unpack(dir)?;
        for (name, path) in &modules {
            ensure!(path.exists(), "{package} has no module {name}");
        }
        let image = only(dir, "vmlinuz-")?;
        let compressed = fs::read(&image)?;
        let payload = payload(&compressed).context("not the image of an x86 kernel")?;
        // Written last: with it, the directory is complete.
        fs::write(&vmlinux, unxz(payload)?)?;
    }
    Ok(Kernel {
        vmlinux,
        modules: modules.to_vec(),
    })
}

/// The name of the newest kernel's package.
fn package() -> Result<String> {
    let depends = || succeed(Command::new("apt-cache").args(["depends", "linux-image-amd64"]));
    let mut text = depends()?;
    if text.is_empty() {
        succeed(Command::new("apt-get").args(["update", "--quiet=2"]))?;
        text = depends()?;
    }
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .map(str::to_owned)
        .context("apt knows no linux-image-amd64")
}

/// Takes the image and the modules out of the package, all into `dir` itself.
fn unpack(dir: &Path) -> Result<()> {
    let archive = only(dir, "linux-image-")?;
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run dpkg-deb")?;
    let stream = reader.stdout.take().context("dpkg-deb has no output")?;
    let unpacked = Command::new("tar")
        .args(["-x", "--wildcards", "--transform=s:.*/::"])
        .arg("./boot/vmlinuz-*")
        .args(MODULES.map(|name| format!("*/{name}.ko")))
        .stdin(stream)
        .current_dir(dir)
        .status()
        .context("cannot run tar")?;
    ensure!(reader.wait()?.success(), "dpkg-deb failed");
    ensure!(unpacked.success(), "tar failed: {unpacked}");
    fs::remove_file(archive)?;
    Ok(())
}

/// The only file of a directory whose name begins so.
fn only(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            found.push(entry.path());
        }
    }
    ensure!(found.len() == 1, "{} files {prefix}*", found.len());
    found.pop().context("it is there")
}

/// The compressed kernel inside of an image that boot loaders load
/// (Documentation/arch/x86/boot.rst: sectors of set-up code, then the payload as the header says).
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let word = |at: usize| {
        let bytes = image.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let sectors = match image.get(SETUP_SECTORS)? {
        0 => 4,
        sectors => usize::from(*sectors),
    };
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)?;
    image.get(start..start.checked_add(word(PAYLOAD_LENGTH)?)?)
}

fn unxz(payload: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("xz")
        // The length follows the stream.
        .args(["-dc", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run xz")?;
    let mut to = child.stdin.take().context("xz has no input")?;
    let payload = payload.to_vec();
    // It stops reading at the end of the stream.
    let writer = std::thread::spawn(move || drop(to.write_all(&payload)));
    let output = child.wait_with_output().context("xz")?;
    let _ = writer.join();
    ensure!(
        output.stdout.starts_with(b"\x7fELF"),
        "the kernel is not compressed by xz"
    );
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 4096];
        image[0x1f1] = 2;
        image[0x248..0x250].copy_from_slice(&[100, 0, 0, 0, 3, 0, 0, 0]);
        image[3 * 512 + 100..][..3].copy_from_slice(b"abc");
        assert_eq!(payload(&image), Some(&b"abc"[..]));
        image[0x24f] = 0x7f;
        assert_eq!(payload(&image), None);
        assert_eq!(payload(&image[..600]), None);
    }
}
