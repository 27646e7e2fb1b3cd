// Package live asks whole meshes how they are: limits, ejections, requests as they happen. Its tests are the only ones who call it.
package live
