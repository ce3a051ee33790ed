//! Both ends against each other, against hostile peers, and against noise. The byte tables of single messages stand
//! beside their codecs.

mod conversation;
mod drive;
mod hostile;
mod noise;
