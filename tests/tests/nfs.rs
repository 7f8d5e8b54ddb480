//! A store on a true NFS mount, with two clients.

use cairn_lab::nfs::rig::{GC_NOW, Image};
use cairn_lab::nfs::{Preload, Rig};
use cairn_lab::{Options, lab_test};

const HELPER: &str = env!("CARGO_BIN_EXE_cairn-lab");

fn options() -> Options {
    Options { guest: false, ..Options::small() }
}

fn image(common: u64, own: u64) -> Image {
    Image { common, own, mib: 8 }
}

lab_test!(two_clients_back_up_and_collect_at_once, options(), |lab| {
    let rig = Rig::start(&lab, HELPER, Preload::default());
    rig.cairn(0, "init /mnt/nfs/store");
    let mut own = 0;
    for round in 0..2 {
        let mut running = Vec::new();
        for index in 0..2 {
            own += 2;
            // Half of each image is the other's as well.
            let scripts: Vec<String> = [own, own + 1].iter().map(|own| format!("({})", Rig::backup_script(&image(round, *own)))).collect();
            running.push(rig.clients[index].spawn(&scripts.join(" && ")).expect("starts"));
        }
        for (index, running) in running.iter().enumerate() {
            let done = rig.wait(index, running);
            assert_eq!(done.code, 0, "{done:?}");
        }
        println!("round {round}: {} points", rig.assert_points());
    }
    rig.cairn(1, GC_NOW);
    println!("{} points", rig.assert_points());
    rig.assert_clean_end();
});
