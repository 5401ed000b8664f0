//! Tests of class folders.

use std::fs;

use tempfile::TempDir;

use super::*;

/// A folder with empty files at `paths`.
fn folder_with(paths: &[&str]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for path in paths {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, []).unwrap();
    }
    root
}

fn paths(folder: &ImageFolder) -> Vec<String> {
    (0..folder.len()).map(|index| folder.relative_path(index)).collect()
}

#[test]
fn classes_and_files_have_torchvisions_order() {
    let root = folder_with(&[
        "b/x.JPEG",
        "b/notes.txt",
        "b/sub/a.png",
        "b/sub-1/a.webp",
        "b/sub/deep/z.tif",
        "a10/2.jpg",
        "a10/10.Ppm",
        "a2/é.bmp",
        "a2/z.tiff",
        "Z/1.pgm",
        "list.jpg",
    ]);
    let folder = ImageFolder::open(root.path()).unwrap();
    assert_eq!(folder.classes(), ["Z", "a10", "a2", "b"]);
    let expected = [
        ["Z/1.pgm", "a10/10.Ppm", "a10/2.jpg"],
        ["a2/z.tiff", "a2/é.bmp", "b/x.JPEG"],
        // torchvision compares the paths of folders as text, where '-' comes before '/'.
        ["b/sub/a.png", "b/sub-1/a.webp", "b/sub/deep/z.tif"],
    ];
    assert_eq!(paths(&folder), expected.concat());
    let labels: Vec<usize> = (0..folder.len()).map(|index| folder.label(index)).collect();
    assert_eq!(labels, [0, 1, 1, 2, 2, 3, 3, 3, 3]);
    assert_eq!(folder.class_range(1), 1..3);
    assert!(folder.path(8).is_file());
}

#[test]
fn train_folder_is_taken_if_it_holds_classes() {
    let root = folder_with(&["train/a/1.png", "train/b/1.png", "val/a/2.png"]);
    let folder = ImageFolder::open(root.path()).unwrap();
    assert_eq!(paths(&folder), ["a/1.png", "b/1.png"]);
    assert_eq!(folder.root(), root.path().join("train"));
    // A class of trains.
    let root = folder_with(&["train/1.png", "plane/1.png"]);
    assert_eq!(ImageFolder::open(root.path()).unwrap().classes(), ["plane", "train"]);
}

#[test]
fn errors_name_the_folder_and_the_remedy() {
    let error = |root: &Path| ImageFolder::open(root).unwrap_err().to_string();
    let root = folder_with(&["1.png", "a/1.png"]);
    let file = error(&root.path().join("1.png"));
    assert!(file.contains("1.png: expected a folder"), "{file}");
    assert!(error(&root.path().join("absent")).contains("absent"));
    let flat = folder_with(&["1.png"]);
    let message = error(flat.path());
    assert!(message.contains("no class folders") && message.contains("in a folder of its own"), "{message}");
    let empty = folder_with(&["a/1.png", "b/1.txt", "c/x/1.gif"]);
    let message = error(empty.path());
    assert!(message.contains("class folders \"b\", \"c\": add some or remove the folders"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let root = folder_with(&["store/1.png", "pictures/a/2.png"]);
    symlink(root.path().join("store"), root.path().join("pictures/b")).unwrap();
    symlink(root.path().join("store/1.png"), root.path().join("pictures/a/1.png")).unwrap();
    let pictures = root.path().join("pictures");
    assert_eq!(paths(&ImageFolder::open(&pictures).unwrap()), ["a/1.png", "a/2.png", "b/1.png"]);
    symlink(&pictures, pictures.join("a/again")).unwrap();
    let error = ImageFolder::open(&pictures).unwrap_err().to_string();
    assert!(error.contains("again: the link leads to a folder that contains it"), "{error}");
}

/// A folder of `counts` pictures per class, without files.
fn simulated(counts: &[usize]) -> ImageFolder {
    let mut folder = ImageFolder::empty(PathBuf::new(), Vec::new());
    for (label, &count) in counts.iter().enumerate() {
        folder.begin_class(format!("n{label:08}"));
        (0..count).for_each(|i| folder.push(&format!("n{label:08}_{i}.JPEG")));
    }
    folder.shrink();
    folder
}

#[test]
fn a_million_entries_take_at_most_32_bytes_each_beside_their_names() {
    let folder = simulated(&[1000; 1000]);
    let names: usize = (0..folder.len()).map(|index| folder.name(index).len()).sum();
    let beside = folder.memory() - names;
    assert!(beside <= 32 * folder.len(), "{beside} bytes");
    assert_eq!(folder.relative_path(999_999), "n00000999/n00000999_999.JPEG");
}

#[test]
fn validation_folders_take_the_labels_of_training() {
    let classes = simulated(&[1, 1, 1]).classes().to_vec();
    let mut folder = ImageFolder::empty(PathBuf::new(), Vec::new());
    folder.begin_class(classes[2].clone());
    folder.push("x.png");
    let folder = folder.with_classes(&classes).unwrap();
    assert_eq!((folder.label(0), folder.relative_path(0)), (2, "n00000002/x.png".to_owned()));
    let error = folder.with_classes(&classes[..1]).unwrap_err().to_string();
    assert!(error.contains("\"n00000001\"") && error.contains("not classes of the training data"), "{error}");
}
