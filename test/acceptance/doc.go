// Package acceptance tries Weir as its users do: it holds tests only. They build the
// programs, start meshes with `weir up`, steer them with `weir` and look at what comes
// through the ingress, what is on the wire and what is left behind.
//
// Each mesh has a state folder and ports of its own, so that tests run beside other
// meshes. Where the kernel does not permit namespaces a test is skipped, unless
// WEIR_KERNEL_TESTS=require says that it must; the long ones run only then. A figure
// that depends on the machine is printed, not judged.
package acceptance
