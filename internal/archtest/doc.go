// Package archtest executes the rules of ARCHITECTURE.md: who may import whom,
// how long a file may be, that every package has exactly one package comment, which
// modules each binary is made of.
//
// Nothing enters and nothing leaves: it is a test over the source tree. Each rule
// is a row of a table with its reason, so that a failing test explains itself.
package archtest
