//go:build linux && !amd64

package acceptance_test

import "errors"

func confine() error { return errors.New("the numbers of system calls are amd64's") }
