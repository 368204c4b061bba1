"""Lightning callbacks that watch a run and never steer its maths: one class a file."""
