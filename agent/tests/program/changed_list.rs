//! `backup-image --changed`: lists of changes that are right, wrong, another image's, and cut off.

use crate::place::{Ended, Place, noise};
use serde_json::{Value, json};
use std::{fs, io::Write, process::Stdio};

const MIB: usize = 1 << 20;
const BLOCK: usize = 4096;

/// An image of some MiB with a first point, and the list that is given for the second.
struct Image {
    place: Place,
    content: Vec<u8>,
    first: String,
}

impl Image {
    fn new() -> Self {
        let place = Place::new();
        // Data with holes of zeros between.
        let mut content = noise(24 * MIB, 5);
        content[4 * MIB..9 * MIB].fill(0);
        let first = place.save("web", &content);
        Self { place, content, first }
    }

    /// Other bytes at these blocks.
    fn change(&mut self, blocks: &[usize]) {
        for block in blocks {
            self.content[block * BLOCK..(block + 1) * BLOCK].fill(0xa5);
        }
        fs::write(self.place.path("image.raw"), &self.content).expect("writes");
    }

    fn backup(&self, list: &str, since: &str) -> Ended {
        fs::write(self.place.path("list.json"), list).expect("writes");
        let (image, list) = (self.place.path("image.raw"), self.place.path("list.json"));
        let args = ["backup-image", &image.display().to_string(), "--name", "web", "--json", "--changed", &list.display().to_string(), "--since", since];
        self.place.run(&args)
    }

    /// The point's disk is the image.
    fn assert_right(&self, point: &Value) {
        let target = self.place.path("back.raw");
        let id = point["id"].as_str().expect("an id");
        self.place.run(&["restore", id, "--disk", &format!("disk0={}", target.display()), "--force"]).expect(0);
        assert!(fs::read(&target).expect("reads") == self.content, "the point is not the image");
    }

    fn points(&self) -> usize {
        self.place.run(&["list", "--json"]).expect(0).json().as_array().expect("points").len()
    }
}

fn list_of(blocks: &[usize]) -> String {
    let entry = |b: &usize| json!({"offset": b * BLOCK, "length": BLOCK, "exists": "true"});
    Value::from(blocks.iter().map(entry).collect::<Vec<_>>()).to_string()
}

#[test]
fn only_what_is_listed_is_read() {
    let mut image = Image::new();
    image.change(&[0, 1500, 5000]);
    let point = image.backup(&list_of(&[5000, 0, 1500]), &image.first).expect(0).json();
    let disk = &point["disks"][0];
    assert_eq!(disk["mode"], "incremental");
    assert!(disk["read"].as_u64().expect("bytes") <= 4 * MIB as u64, "{disk}");
    image.assert_right(&point);
    // Nothing changed since, and it is the newest point that this list counts from.
    let same = image.backup("[]", "web@latest").expect(0).json();
    assert_eq!((&same["disks"][0]["root"], &same["disks"][0]["mode"]), (&disk["root"], &json!("incremental")));
}

#[test]
fn a_list_from_a_pipe() {
    let mut image = Image::new();
    image.change(&[7]);
    let path = image.place.path("image.raw").display().to_string();
    let args = ["backup-image", &path, "--name", "web", "--json", "--changed", "-", "--since", &image.first];
    let mut child = image.place.command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("piped").write_all(list_of(&[7]).as_bytes()).expect("written");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success());
    image.assert_right(&serde_json::from_slice(&output.stdout).expect("a point"));
}

#[test]
fn an_image_that_grew_or_shrank_is_saved_to_its_end() {
    let mut image = Image::new();
    image.content.extend(noise(3 * MIB + 512, 9));
    image.change(&[2]);
    let point = image.backup(&list_of(&[2]), &image.first).expect(0).json();
    assert_eq!(point["disks"][0]["mode"], "incremental");
    image.assert_right(&point);
    image.content.truncate(10 * MIB + 512);
    image.change(&[3]);
    // What is behind the new end was in the image since which the list counts.
    let point = image.backup(&list_of(&[3, 4000]), point["id"].as_str().expect("an id")).expect(0).json();
    image.assert_right(&point);
}

#[test]
fn a_list_that_misses_much_is_not_gone_by() {
    let mut image = Image::new();
    image.change(&(3000..5000).collect::<Vec<_>>());
    let ended = image.backup(&list_of(&[3000]), &image.first).expect(3);
    assert!(ended.err.contains("warning") && ended.err.contains("misses some"), "{}", ended.err);
    let point = ended.json();
    let reason = point["disks"][0]["reason"].as_str().expect("a reason");
    assert!(point["disks"][0]["mode"] == "compare" && reason.contains("list of changes") && reason.contains(&image.first), "{reason}");
    image.assert_right(&point);
}

#[test]
fn a_list_that_is_none_is_refused_and_nothing_is_made() {
    let image = Image::new();
    for (list, why) in [
        ("", "ends too early"),
        (r#"[{"offset":0,"length":4096}"#, "ends too early"),
        ("{\"offset\":0}", "no list of changes"),
        (r#"[{"offset":107374182400,"length":4096}]"#, "another image's"),
    ] {
        let ended = image.backup(list, &image.first).expect(2);
        assert!(ended.err.contains(why), "{list}: {}", ended.err);
    }
    assert_eq!(image.points(), 1);
}

#[test]
fn a_list_counts_from_a_point_of_the_same_image() {
    let image = Image::new();
    let (path, list) = (image.place.path("image.raw").display().to_string(), image.place.path("list.json"));
    fs::write(&list, "[]").expect("writes");
    let list = list.display().to_string();
    let other = image.place.run(&["backup-image", &path, "--name", "db", "--changed", &list, "--since", &image.first]).expect(2);
    assert!(other.err.contains("the same image"), "{}", other.err);
    let alone = image.place.run(&["backup-image", &path, "--name", "web", "--changed", &list]).expect(2);
    assert!(alone.err.contains("--since"), "{}", alone.err);
    image.backup("[]", "web@ffffffffffff").expect(15);
    assert_eq!(image.points(), 1);
}
