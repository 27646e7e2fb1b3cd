// Package live asks whole meshes how they are: limits, ejections, requests as they happen, who calls whom; testdata has what `weir` prints of it. Its tests are the only ones who call it.
package live
