//! The archive that a Linux kernel unpacks as its first file system: `cpio -H newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// A file's kind and permissions, as in `stat`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: Vec<String>,
}

impl Archive {
    /// Adds a file that may be executed, with the directories that lead to it.
    pub(super) fn file(&mut self, path: &str, content: &[u8]) {
        self.parents(path);
        self.entry(path, PROGRAM, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.parents(path);
        self.entry(path, LINK, to.as_bytes());
    }

    /// Adds an empty directory.
    pub(super) fn directory(&mut self, path: &str) {
        self.parents(&format!("{path}/"));
    }

    fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            let directory = path[..at].to_owned();
            if !self.directories.contains(&directory) {
                self.entry(&directory, DIRECTORY, &[]);
                self.directories.push(directory);
            }
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let name = path.trim_start_matches('/');
        let links = 1;
        // Inode, mode, owner, group, links, time, size, device and special device (major and
        // minor each), length of the name with its zero, checksum.
        let fields = [
            self.bytes.len() as u32,
            mode,
            0,
            0,
            links,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Everything begins at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents of an archive.
    fn list(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some((header, _)) = bytes.split_at_checked(110) {
            let field = |n: usize| {
                let text = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).unwrap_or("");
                u32::from_str_radix(text, 16).unwrap_or(u32::MAX) as usize
            };
            let (size, name_end) = (field(6), 110 + field(11));
            let start = name_end.next_multiple_of(4);
            let name = String::from_utf8_lossy(&bytes[110..name_end - 1]);
            let content = bytes[start..start + size].to_vec();
            found.push((name.into_owned(), field(1) as u32, content));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("/a/b/file", b"12345");
        archive.link("/a/link", "b/file");
        archive.directory("/c");
        let found = list(&archive.finish());
        let names: Vec<&str> = found.iter().map(|(name, ..)| &**name).collect();
        assert_eq!(names, ["a", "a/b", "a/b/file", "a/link", "c", "TRAILER!!!"]);
        assert_eq!(
            found[2],
            ("a/b/file".to_owned(), PROGRAM, b"12345".to_vec())
        );
        assert_eq!(found[3], ("a/link".to_owned(), LINK, b"b/file".to_vec()));
        assert_eq!(found[4].1, DIRECTORY);
    }
}
