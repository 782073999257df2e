//! Which NIC is nearest to a GPU, by what sysfs says of both.

use super::VerbsError;
use crate::pci::PciAddress;
use std::path::{Path, PathBuf};

/// How far two devices are from each other; less is nearer. Below one root port or switch
/// the steps up to the common bridge and down again count, beyond that the NUMA node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Distance {
    /// No PCI host bridge in common.
    other_bridge: bool,
    /// Not known to be on one NUMA node.
    other_node: bool,
    steps: usize,
}

fn distance(a: &Path, b: &Path) -> Distance {
    let common = a.components().zip(b.components());
    let common = common.take_while(|(a, b)| a == b);
    // The host bridge is a directory such as `pci0000:16`.
    let bridge = |(name, _): (std::path::Component<'_>, _)| {
        name.as_os_str().as_encoded_bytes().starts_with(b"pci")
    };
    Distance {
        other_bridge: !common.clone().any(bridge),
        other_node: numa_node(a).is_none_or(|node| numa_node(b) != Some(node)),
        steps: a.components().count() + b.components().count() - 2 * common.count(),
    }
}

/// `None` where the firmware does not say.
fn numa_node(device: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(device.join("numa_node")).ok()?;
    text.trim().parse().ok()
}

/// The `count` RDMA devices that are nearest to a GPU; of several that are as near, the
/// first by name. `sysfs` is where sysfs is mounted.
///
/// # Errors
/// There is no such GPU, no RDMA device, or fewer than `count`.
pub(crate) fn nearest_nics(
    sysfs: &Path,
    gpu: PciAddress,
    count: usize,
) -> Result<Vec<String>, VerbsError> {
    let unknown = |what: String| {
        move |source| VerbsError::Topology {
            what,
            sysfs: sysfs.to_owned(),
            source,
        }
    };
    let gpu_place = sysfs.join(format!("bus/pci/devices/{gpu}"));
    let gpu_place: PathBuf = gpu_place
        .canonicalize()
        .map_err(unknown(format!("PCI device {gpu}")))?;
    let class = sysfs.join("class/infiniband");
    let entries = class
        .read_dir()
        .map_err(unknown("RDMA device".to_owned()))?;
    let mut devices: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            // A virtual device, as Soft-RoCE, is on no bus.
            let place = entry.path().join("device").canonicalize().ok()?;
            let name = entry.file_name().into_string().ok()?;
            // Names end in a number, and mlx5_2 comes before mlx5_10.
            Some((distance(&gpu_place, &place), name.len(), name))
        })
        .collect();
    devices.sort_unstable();
    let mut names: Vec<String> = devices.into_iter().map(|(_, _, name)| name).collect();
    if names.is_empty() {
        let nothing = std::io::ErrorKind::NotFound.into();
        return Err(unknown("RDMA device".to_owned())(nothing));
    }
    if names.len() < count {
        return Err(VerbsError::NoDevice {
            wanted: format!(
                "number {} in the order of nearness to {gpu}",
                names.len() + 1
            ),
            found: names.join(", "),
        });
    }
    names.truncate(count);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that is gone at the end.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("ep-{name}-{}", std::process::id()));
            std::fs::create_dir_all(root.join("bus/pci/devices")).unwrap();
            std::fs::create_dir_all(root.join("class/infiniband")).unwrap();
            Self(root)
        }

        fn device(&self, place: &str, node: i32) -> PathBuf {
            let device = self.0.join("devices").join(place);
            std::fs::create_dir_all(&device).unwrap();
            std::fs::write(device.join("numa_node"), format!("{node}\n")).unwrap();
            device
        }

        fn gpu(&self, place: &str, node: i32) -> PciAddress {
            let device = self.device(place, node);
            let name = place.rsplit('/').next().unwrap();
            symlink(device, self.0.join("bus/pci/devices").join(name)).unwrap();
            name.parse().unwrap()
        }

        fn nic(&self, name: &str, place: &str, node: i32) {
            let entry = self.0.join("class/infiniband").join(name);
            std::fs::create_dir_all(&entry).unwrap();
            symlink(self.device(place, node), entry.join("device")).unwrap();
        }

        fn nearest(&self, gpu: PciAddress) -> String {
            nearest_nics(&self.0, gpu, 1).unwrap().remove(0)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_switch_comes_before_the_bridge_and_that_before_the_node() {
        let tree = Tree::new("nearest");
        let gpu = tree.gpu("pci0000:16/0000:16:01.0/0000:17:00.0/0000:18:00.0", 0);
        tree.nic("mlx5_3", "pci0000:96/0000:96:01.0/0000:97:00.0", 1);
        assert_eq!(tree.nearest(gpu), "mlx5_3");
        tree.nic("mlx5_10", "pci0000:26/0000:26:01.0/0000:27:00.0", 0);
        assert_eq!(tree.nearest(gpu), "mlx5_10");
        tree.nic("mlx5_2", "pci0000:36/0000:36:01.0/0000:37:00.0", 0);
        assert_eq!(tree.nearest(gpu), "mlx5_2");
        tree.nic("mlx5_8", "pci0000:16/0000:16:02.0/0000:19:00.0", 0);
        assert_eq!(tree.nearest(gpu), "mlx5_8");
        tree.nic(
            "mlx5_9",
            "pci0000:16/0000:16:01.0/0000:17:00.0/0000:1a:00.0",
            0,
        );
        assert_eq!(tree.nearest(gpu), "mlx5_9");
    }

    #[test]
    fn several_come_by_distance_and_then_by_name() {
        let tree = Tree::new("several");
        let gpu = tree.gpu("pci0000:16/0000:16:01.0/0000:17:00.0", 0);
        tree.nic("mlx5_0", "pci0000:96/0000:96:01.0/0000:97:00.0", 1);
        tree.nic("mlx5_10", "pci0000:16/0000:16:02.0/0000:18:00.0", 0);
        tree.nic("mlx5_2", "pci0000:16/0000:16:03.0/0000:19:00.0", 0);
        let names = |count| nearest_nics(&tree.0, gpu, count);
        assert_eq!(names(2).unwrap(), ["mlx5_2", "mlx5_10"]);
        assert_eq!(names(3).unwrap(), ["mlx5_2", "mlx5_10", "mlx5_0"]);
        let error = names(4).unwrap_err().to_string();
        assert_eq!(
            error,
            "no RDMA device number 4 in the order of nearness to 0000:17:00.0; \
             found: mlx5_2, mlx5_10, mlx5_0"
        );
    }

    #[test]
    fn an_unknown_node_is_nobodys() {
        let tree = Tree::new("nodes");
        let gpu = tree.gpu("pci0000:16/0000:18:00.0", -1);
        tree.nic("mlx5_0", "pci0000:36/0000:36:01.0/0000:38:00.0", -1);
        tree.nic("mlx5_1", "pci0000:26/0000:28:00.0", 0);
        assert_eq!(tree.nearest(gpu), "mlx5_1");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let tree = Tree::new("missing");
        let gpu = tree.gpu("pci0000:16/0000:18:00.0", 0);
        let error = nearest_nics(&tree.0, gpu, 1).unwrap_err().to_string();
        assert!(error.starts_with("no RDMA device in /"), "{error}");
        let other = "0000:19:00.0".parse().unwrap();
        let error = nearest_nics(&tree.0, other, 1).unwrap_err().to_string();
        assert!(
            error.starts_with("no PCI device 0000:19:00.0 in /"),
            "{error}"
        );
    }
}
