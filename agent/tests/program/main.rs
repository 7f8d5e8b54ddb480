//! The program as it is used: started with arguments, on real stores in real folders; exit codes, what it prints, what is there afterwards.

mod changed_list;
mod clocks;
mod damage;
mod doctor;
mod hangup;
mod keys;
mod names;
mod namespaces;
mod own_folder;
mod pages;
mod partial;
mod place;
mod prune;
mod read_limit;
mod refused;
mod streams;
mod told;
mod undo;
mod unreadable;
