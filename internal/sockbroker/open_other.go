//go:build !linux

package sockbroker

import (
	"errors"
	"os"
)

var errLinux = errors.New("sockets are handed between namespaces on Linux only")

func pair() (mine, theirs *os.File, err error) { return nil, nil, errLinux }

func open(request, uint32) (int, error) { return -1, errLinux }
