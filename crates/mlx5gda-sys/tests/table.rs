//! The function table: where it comes from, and what it says when it cannot.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use mlx5gda_sys::table::{FnTable, Functions, IBVERBS, LoadError, MLX5};

/// A directory of its own for one test.
fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}

#[test]
fn a_missing_library_is_named() {
    let dir = scratch("empty");
    let error = FnTable::load_from(&dir).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot load {}", dir.join(IBVERBS).display())
    );
    let linker = error.source().unwrap().source().unwrap().to_string();
    assert!(linker.contains("No such file"), "{linker}");
}

#[test]
fn an_empty_directory_name_is_not_a_search() {
    let error = FnTable::load_from(Path::new("")).unwrap_err();
    let LoadError::Library { path, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(path, Path::new("./").join(IBVERBS));
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let dir = scratch("garbage");
    fs::write(dir.join(IBVERBS), b"not a library").unwrap();
    let error = FnTable::load_from(&dir).unwrap_err().to_string();
    assert!(error.ends_with(IBVERBS), "{error}");
}

#[test]
fn a_missing_function_is_named() {
    // Any library that is not libibverbs will do, and every process has this one.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps
        .split_whitespace()
        .find(|word| word.ends_with("libc.so.6"))
        .unwrap();
    let dir = scratch("wrong");
    for name in [IBVERBS, MLX5] {
        fs::copy(libc, dir.join(name)).unwrap();
    }
    let error = FnTable::load_from(&dir).unwrap_err();
    assert_eq!(
        error.to_string(),
        "libibverbs.so.1 has no function ibv_get_device_list"
    );
}

#[test]
fn every_symbol_is_listed_once() {
    let mut names: Vec<_> = Functions::SYMBOLS.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Functions::SYMBOLS.len());
    assert_eq!(names.len(), 37);
}

/// The system may have no rdma-core; then the error says so, and that is all there is to test.
#[test]
fn the_system_libraries_load_or_say_why() {
    let table = match FnTable::load() {
        Ok(table) => table,
        Err(LoadError::Library { path, .. }) => {
            assert!(path == Path::new(IBVERBS) || path == Path::new(MLX5));
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert!(table.is_loaded());
    let copy = table.clone();
    drop(table);
    let mut count = -1;
    // SAFETY: `count` outlives the call; the list is freed with its own function.
    unsafe {
        let list = (copy.ibv_get_device_list)(&raw mut count);
        if !list.is_null() {
            assert!(count >= 0);
            (copy.ibv_free_device_list)(list);
        }
    }
    let again = FnTable::from_static(*copy);
    assert!(!again.is_loaded());
}
