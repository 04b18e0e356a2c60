! An iterative solver in Fortran that has itself checkpointed every so many steps, through the C interface.
!
!   gfortran -O2 solver.f90 -o solver $(pkg-config --libs libcryo)
!   ./solver 2000 500 solver.cryo
!   cryo restart solver.cryo
program solver
  use, intrinsic :: iso_c_binding
  implicit none

  interface
    integer(c_int) function cryo_checkpoint(path) bind(c)
      import :: c_int, c_char
      character(kind=c_char), dimension(*), intent(in) :: path
    end function
  end interface

  integer, parameter :: side = 256
  real(c_double) :: grid(side, side, 0:1)
  character(len=4096) :: text
  integer :: steps, every, now, from, to
  integer(c_int) :: life

  if (command_argument_count() /= 3) stop 2
  call get_command_argument(1, text)
  read (text, *) steps
  call get_command_argument(2, text)
  read (text, *) every
  call get_command_argument(3, text)

  grid = 0
  grid(:, 1, :) = 100
  do now = 1, steps
    from = mod(now - 1, 2)
    to = mod(now, 2)
    grid(2:side-1, 2:side-1, to) = 0.25d0 * (grid(1:side-2, 2:side-1, from) + grid(3:side, 2:side-1, from) &
        + grid(2:side-1, 1:side-2, from) + grid(2:side-1, 3:side, from))
    if (mod(now, every) == 0 .and. now < steps) then
      life = cryo_checkpoint(trim(text) // c_null_char)
      if (life < 0) then
        print '(a,i0,a)', 'step ', now, ': no checkpoint'
      else if (life == 0) then
        print '(a,i0,a)', 'step ', now, ': saved'
      else
        print '(a,i0,a,i0,a)', 'step ', now, ': life ', life, ' begins'
      end if
      flush (6)
    end if
  end do
  print '(a,es19.12)', 'result ', sum(grid(:, :, mod(steps, 2)))
end program
