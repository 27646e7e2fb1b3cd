// Package scripts holds traffic scripts, and the tests that run them: each *.txt says what an
// operator intends, gives the objects that ask for it, and tells call by call what comes of
// them. README.md has the format and the cast.
//
// Every script runs twice: through xds/simulate over what the control plane generates for the
// callers, and through the proxies of a whole mesh in this process. Both must give what the
// script says; where they differ, either translation or the proxy is wrong about xDS.
package scripts
