// Package netns is the namespace tree of the laptop mesh: real network capture that
// leaves nothing behind, as root and as an ordinary user.
//
//	top      the process the user started, in the host's namespaces.
//	 │       Start; serves host sockets to the tree (internal/sockbroker).
//	 └ init  PID 1 of new PID, mount and network namespaces, and, without root, of a
//	    │    user namespace in which the user is root. RunInit; owns a bridge and a
//	    │    network namespace per pod, held by a thread and never by a name.
//	    ├ a process of the fabric (Fabric.Start): proxies, control plane. It may reach
//	    │    pods over the bridge; sockets made elsewhere come through the brokers it inherits.
//	    └ a process of a pod (Pod.Start): the application, in the pod's network namespace,
//	         with the pod's resolv.conf, hosts and nsswitch.conf, and its host name.
//
// # What dies with what
//
// The kernel kills a PID namespace with its first process, and a namespace or virtual
// link goes with its last user. So the tree needs no cleaning up: when top dies, however
// it dies, the kernel kills init (parent death signal), and with it everything else. A
// second guard, should the signal be lost: init exits when its end of a socket pair with
// top reads as closed.
//
// # What an application may do
//
// Every process of the tree runs in a user namespace of its own below init's, with the
// user's own ids and no capability outside it. It cannot mark sockets, change rules or
// routes, enter another network namespace or trace another process, so it cannot avoid
// capture; nor see more of the host's processes than the tree. It can signal processes of
// the same user in the tree, and files are the host's own: this keeps a program in the
// mesh, it does not jail it.
//
// # Threads
//
// Namespaces belong to threads. Each pod has one goroutine locked to a thread that lives
// in its namespaces, where Pod.Do runs functions; a socket belongs to the namespace of the
// thread that made it. Init's other threads are in the fabric's namespaces.
//
// In init, start processes with Fabric.Start and Pod.Start only: init must reap whatever
// ends, and would reap the children of os/exec before it.
package netns
