//! The program as it is used: started with arguments, on real stores in real folders; exit codes, what it prints, what is there afterwards.

mod clocks;
mod damage;
mod doctor;
mod namespaces;
mod partial;
mod place;
mod refused;
mod streams;
mod undo;
mod unreadable;
